"""Ranks that were started without a layout get one, and the main rank says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.utils.world import World

TWO = World(0, 2, 0, is_launched=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["seed=1"], ["experiment=cifar10"]])
def test_ranks_without_a_layout_take_ddp(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert add_rank_layout(words, None, TWO) == [*words, "parallel=ddp"]
    assert capsys.readouterr().err == (
        "note: parallel=ddp was chosen for the 2 ranks that were started; choose another layout with parallel=\n"
    )


def test_only_the_main_rank_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert add_rank_layout(["seed=1"], None, World(1, 2, 1, is_launched=True)) == ["seed=1", "parallel=ddp"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "world"),
    [
        (["parallel=fsdp"], TWO),
        (["+parallel=ddp"], TWO),
        (["parallel=single"], TWO),
        (["no_such_key=1"], TWO),
        (["seed=1"], World()),
        (["seed=1"], World(0, 1, 0, is_launched=True)),
    ],
)
def test_a_layout_that_is_chosen_and_one_process_stay(
    words: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add_rank_layout(words, None, world) == words
    assert not capsys.readouterr().err


def test_an_experiment_may_choose_the_layout(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "wide.yaml").write_text(
        "# @package _global_\n# Wide.\ndefaults:\n  - override /parallel: fsdp\n"
    )
    assert add_rank_layout(["experiment=wide"], tmp_path, TWO) == ["experiment=wide"]
