"""Every method on every layout: each cell is a real run, and is what docs/composition.md says it is."""

from __future__ import annotations

import pytest
from composition import LAYOUTS, Composition, read_table
from methods import Tried, methods
from rank_pool import Pool

#: Methods that stand for all: schedules, state, decisions, batches, clipping at once. Each row takes minutes.
QUICK = {"reg=[label_smoothing,grad_clip] +augment=[mixup] average=[ema] sched=plateau"}


@pytest.fixture(scope="module")
def table(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Composition:
    return Composition(pool, tmp_path_factory.mktemp("composition"))


@pytest.fixture(scope="module")
def stated() -> dict[tuple[str, str], str]:
    return read_table()


def rows() -> list[object]:
    found = []
    for method in methods():
        marks = [pytest.mark.slow]
        if method.name not in QUICK:
            marks.append(pytest.mark.long)
        found.append(pytest.param(method, id=method.name, marks=marks))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", rows())
def test_each_layout_does_with_the_method_what_the_table_says(
    method: Tried, table: Composition, stated: dict[tuple[str, str], str]
) -> None:
    found = {layout.name: table.cell(method, layout) for layout in LAYOUTS}
    assert {name: cell.kind for name, cell in found.items()} == {
        layout.name: stated[method.name, layout.name] for layout in LAYOUTS
    }, found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", rows())
def test_a_run_with_the_method_is_gone_on_with_bit_for_bit(
    method: Tried, table: Composition, stated: dict[tuple[str, str], str]
) -> None:
    cell = table.resumed(method)
    assert cell.kind == stated[method.name, "resume"], cell.note


def test_the_table_has_every_method_and_layout_and_no_cell_that_failed(stated: dict[tuple[str, str], str]) -> None:
    columns = [layout.name for layout in LAYOUTS] + ["resume"]
    assert set(stated) == {(method.name, column) for method in methods() for column in columns}
    assert set(stated.values()) <= {"equal", "works", "refused"}
    assert len(methods()) >= 45
    assert len(LAYOUTS) >= 9
