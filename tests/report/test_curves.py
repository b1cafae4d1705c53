"""curves.png."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnntrain.errors import ConfigError
from dnntrain.report import write_curves

MakeRun = Callable[..., Path]


def ink(path: Path) -> float:
    """Share of the pixels that are not white."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1500, 480)
        return float((np.asarray(picture.convert("L")) < 250).mean())


@pytest.mark.slow
def test_the_curves_of_a_run_are_drawn_on_white(make_run: MakeRun) -> None:
    path = write_curves(make_run())
    assert path.name == "curves.png"
    assert 0.01 < ink(path) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["", '{"step": 1, "split": "train", "loss": "nan", "lr": "inf"}\n'])
def test_a_run_without_a_finite_value_is_drawn_too(make_run: MakeRun, rows: str) -> None:
    run = make_run(status="unfinished")
    (run / "metrics.jsonl").write_text(rows)
    assert ink(write_curves(run)) > 0.001


@pytest.mark.slow
def test_a_name_is_never_read_as_a_formula(make_run: MakeRun) -> None:
    run = make_run()
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**plan, "name": "$\\frac{1}{$ \x00 \u4f60"}))
    write_curves(run)


@pytest.mark.slow
def test_decisions_are_marked(make_run: MakeRun) -> None:
    plain = write_curves(make_run("plain"))
    marked = write_curves(make_run("marked", events=((60, "plateau", "no better"), (90, "$\\frac{", ""))))
    assert ink(marked) > ink(plain)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        write_curves(tmp_path)
