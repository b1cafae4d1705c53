"""What a person sees of a sweep."""

from __future__ import annotations

import io
import math
from pathlib import Path

from rich.console import Console

from dnntrain.sweep.progress_table import PlainProgressTable, describe_progress, make_table, select_rows
from dnntrain.sweep.resources import ResourceDemand
from dnntrain.sweep.sweep_directory import Trial, TrialStatus, read_status, status_after_exit
from dnntrain.utils.sealed_json import write_sealed_json


def trials(folder: Path, count: int) -> list[Trial]:
    config = {"eval": {"metric": "accuracy"}}
    return [Trial(n, (), (f"seed={n}",), config, folder / str(n), ResourceDemand(), 600) for n in range(1, count + 1)]


def test_what_runs_and_what_failed_is_shown_first(tmp_path: Path) -> None:
    standings = [TrialStatus(status) for status in ("done", "waiting", "running", "diverged", "done", "running")]
    assert select_rows(standings, None) == [0, 1, 2, 3, 4, 5]
    assert select_rows(standings, 3) == [2, 3, 5]
    assert select_rows(standings, 4) == [1, 2, 3, 5]


def test_the_table_counts_what_it_leaves_out(tmp_path: Path) -> None:
    standings = [TrialStatus("done", value=0.5), TrialStatus("running", step=20, metric=0.25), TrialStatus("done")]
    console = Console(file=io.StringIO(), width=100)
    console.print(make_table(trials(tmp_path, 3), standings, lambda index: math.nan, 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "20/600" in text
    assert "0.2500" in text
    assert "not shown: 1 done" in text


def test_a_quiet_board_tells_failures_only(tmp_path: Path) -> None:
    stream = io.StringIO()
    board = PlainProgressTable(tmp_path, trials(tmp_path, 2), [TrialStatus(), TrialStatus()], stream, quiet=True)
    board.open()
    board.on_trial_start(0)
    board.statuses[0] = TrialStatus("done", exit_code=0)
    board.on_trial_end(0)
    board.statuses[1] = TrialStatus("diverged", step=7, exit_code=4, reason="the loss of step 2 is nan")
    board.on_trial_end(1)
    board.close()
    assert stream.getvalue() == "trial 2/2 seed=2: diverged, 7 steps (1/2 done)\n  the loss of step 2 is nan\n"
    assert (tmp_path / "results.csv").read_text().splitlines()[2] == f"2,seed=2,diverged,accuracy,,,7,,{tmp_path}/2"


def test_a_line_tells_where_a_running_trial_is(tmp_path: Path) -> None:
    [trial] = trials(tmp_path, 1)
    assert (
        describe_progress(trial, TrialStatus("running", step=200, metric=0.63194))
        == "step 200 of 600, val accuracy 0.6319"
    )
    assert describe_progress(trial, TrialStatus("running")) == "step 0 of 600"


def test_a_trial_that_was_broken_off_has_the_steps_of_its_result_and_else_those_of_its_last_row(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, 1)
    trial.folder.mkdir()
    (trial.folder / "metrics.jsonl").write_text('{"step": 1180, "split": "train", "loss": 0.5}\n')
    assert status_after_exit(trial, -9).step == 1180
    assert read_status(trial).step == 1180
    write_sealed_json(trial.folder / "result.json", {"status": "interrupted", "steps": 1194})
    assert status_after_exit(trial, 130).step == 1194
    assert read_status(trial).step == 1194
