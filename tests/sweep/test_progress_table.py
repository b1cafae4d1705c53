"""What a person sees of a sweep."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dnntrain.protocols.metric import MetricInfo
from dnntrain.sweep.progress_table import PlainProgressTable, make_table, select_rows
from dnntrain.sweep.resources import ResourceDemand
from dnntrain.sweep.sweep_directory import Trial, TrialStatus, read_status, status_after_exit
from dnntrain.sweep.trial_text import describe_progress, list_best
from dnntrain.utils.sealed_json import write_sealed_json

ACCURACY = MetricInfo("accuracy", higher_is_better=True, unit="%")


def trials(folder: Path, count: int) -> list[Trial]:
    config = {"eval": {"metric": "accuracy"}}
    return [
        Trial(n, (), (f"seed={n}",), config, folder / str(n), ResourceDemand(), 600, metric_info=ACCURACY)
        for n in range(1, count + 1)
    ]


def test_what_runs_and_what_failed_is_shown_first(tmp_path: Path) -> None:
    standings = [TrialStatus(status) for status in ("done", "waiting", "running", "diverged", "done", "running")]
    assert select_rows(standings, None) == [0, 1, 2, 3, 4, 5]
    assert select_rows(standings, 3) == [2, 3, 5]
    assert select_rows(standings, 4) == [1, 2, 3, 5]


def test_the_table_counts_what_it_leaves_out(tmp_path: Path) -> None:
    standings = [TrialStatus("done", value=0.5), TrialStatus("running", step=20, metric=0.25), TrialStatus("done")]
    console = Console(file=io.StringIO(), width=100)
    console.print(make_table(trials(tmp_path, 3), standings, lambda index: math.nan, max_rows=2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "20/600" in text
    assert "25.00%" in text
    assert "not shown: 1 done" in text


def draw(rows: list[Trial], statuses: list[TrialStatus], *, ascii_only: bool = False) -> list[str]:
    """The lines of the table."""
    console = Console(file=io.StringIO(), width=100)
    console.print(make_table(rows, statuses, lambda index: math.nan, ascii_only))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_best_finished_trials_are_marked(tmp_path: Path) -> None:
    values = (0.5, 0.75, None, math.nan, 0.75)
    statuses = [TrialStatus("done", best=value, value=value) for value in values]
    # A trial that is still running may become worse or better, so it has no mark.
    statuses.append(TrialStatus("running", metric=0.9))
    lines = draw(trials(tmp_path, 6), statuses)
    assert [number for number, line in enumerate(lines[1:7], 1) if "★" in line] == [2, 5]
    assert lines[7].strip() == "★ best val accuracy"
    assert draw(trials(tmp_path, 6), statuses, ascii_only=True)[7].strip() == "* best val accuracy"
    lower = [replace(trial, metric_info=MetricInfo("loss")) for trial in trials(tmp_path, 6)]
    assert "★" in draw(lower, statuses)[1]
    mixed = [*trials(tmp_path, 1), *lower[1:]]
    assert list_best(mixed, statuses) == []
    assert list_best(trials(tmp_path, 1), statuses[:1]) == []


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
        == "step 200 of 600, val accuracy 63.19%"
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
