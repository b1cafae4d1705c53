"""What a person sees of a sweep."""

from __future__ import annotations

import io
import math
from pathlib import Path

from rich.console import Console

from dnntrain.sweep.progress_table import PlainBoard, progress, shown, table
from dnntrain.sweep.resources import Need
from dnntrain.sweep.sweep_directory import Standing, Trial, ended, standing


def trials(folder: Path, count: int) -> list[Trial]:
    config = {"eval": {"metric": "accuracy"}}
    return [Trial(n, (), (f"seed={n}",), config, folder / str(n), Need(), 600) for n in range(1, count + 1)]


def test_what_runs_and_what_failed_is_shown_first(tmp_path: Path) -> None:
    standings = [Standing(status) for status in ("done", "waiting", "running", "diverged", "done", "running")]
    assert shown(standings, None) == [0, 1, 2, 3, 4, 5]
    assert shown(standings, 3) == [2, 3, 5]
    assert shown(standings, 4) == [1, 2, 3, 5]


def test_the_table_counts_what_it_leaves_out(tmp_path: Path) -> None:
    standings = [Standing("done", value=0.5), Standing("running", step=20, metric=0.25), Standing("done")]
    console = Console(file=io.StringIO(), width=100)
    console.print(table(trials(tmp_path, 3), standings, lambda index: math.nan, 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "20/600" in text
    assert "0.2500" in text
    assert "not shown: 1 done" in text


def test_a_quiet_board_tells_failures_only(tmp_path: Path) -> None:
    stream = io.StringIO()
    board = PlainBoard(tmp_path, trials(tmp_path, 2), [Standing(), Standing()], stream, quiet=True)
    board.open()
    board.begun(0)
    board.standings[0] = Standing("done", code=0)
    board.over(0)
    board.standings[1] = Standing("diverged", step=7, code=4, reason="the loss of step 2 is nan")
    board.over(1)
    board.close()
    assert stream.getvalue() == "trial 2/2 seed=2: diverged, 7 steps (1/2 done)\n  the loss of step 2 is nan\n"
    assert (tmp_path / "results.csv").read_text().splitlines()[2] == f"2,seed=2,diverged,accuracy,,,7,,{tmp_path}/2"


def test_a_line_tells_where_a_running_trial_is(tmp_path: Path) -> None:
    [trial] = trials(tmp_path, 1)
    assert progress(trial, Standing("running", step=200, metric=0.63194)) == "step 200 of 600, val accuracy 0.6319"
    assert progress(trial, Standing("running")) == "step 0 of 600"


def test_a_trial_that_was_broken_off_has_the_steps_of_its_result_and_else_those_of_its_last_row(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, 1)
    trial.folder.mkdir()
    (trial.folder / "metrics.jsonl").write_text('{"step": 1180, "split": "train", "loss": 0.5}\n')
    assert ended(trial, -9).step == 1180
    assert standing(trial).step == 1180
    (trial.folder / "result.json").write_text('{"status": "interrupted", "steps": 1194}')
    assert ended(trial, 130).step == 1194
    assert standing(trial).step == 1194
