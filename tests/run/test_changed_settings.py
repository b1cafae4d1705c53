"""Settings that change on resume what saved state means: the best evaluation, the end of a run, an average."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from short_runs import result, rows, trained

from dnntrain.cli.main import main


def resumed(run: Path, *words: str) -> dict[str, Any]:
    assert main(["resume", str(run), *words, "--quiet"]) == 0
    return result(run)


def val_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in rows(run) if row["split"] == "val"]


def kept_steps(run: Path) -> set[int]:
    return {int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")}


def exports_checkpoint(run: Path, step: int) -> bool:
    """Whether the written model has the weights of the checkpoint of `step`."""
    model = load_file(run / "model.safetensors")
    state = load_file(run / "checkpoints" / f"step-{step}" / "state-0.safetensors")
    return all((state[f"model/{name}"] == tensor).all() for name, tensor in model.items())


@pytest.fixture(scope="module")
def accurate_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose most accurate state is not the one of the lowest loss: its last epochs learn far too fast."""
    folder = tmp_path_factory.mktemp("accurate") / "run"
    trained(folder, "train.duration=4ep", "checkpoint.keep_last=9", "sched=constant")
    return folder


@pytest.fixture
def run(accurate_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(accurate_run, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_best_state_by_another_metric_is_chosen_again_from_the_rows(metric: str, run: Path) -> None:
    if metric == "accuracy":
        resumed(run, "eval.metric=loss", "train.duration=5ep", "optim.lr=0.05")
    found = resumed(run, f"eval.metric={metric}", "train.duration=6ep", "optim.lr=0.05")
    sign = 1 if metric == "accuracy" else -1
    best = max(val_rows(run), key=lambda row: (sign * row[metric], row["step"]))
    assert (found["metric"], found["best"], found["best_step"]) == (metric, best[metric], best["step"])
    assert (run / "checkpoints" / "BEST").read_text().strip() == f"step-{best['step']}"
    assert exports_checkpoint(run, best["step"])


@pytest.mark.slow
def test_the_best_state_by_another_metric_is_one_that_is_still_kept(run: Path) -> None:
    steps = sorted(kept_steps(run))
    for step in steps[1:-1]:
        shutil.rmtree(run / "checkpoints" / f"step-{step}")
    (run / "checkpoints" / "BEST").write_text(f"step-{steps[0]}\n")
    found = resumed(run, "eval.metric=loss", "train.duration=5ep", "optim.lr=0.3")
    candidates = [row for row in val_rows(run) if row["step"] in {steps[0], steps[-1], steps[-1] + 10}]
    assert found["best"] == min(row["loss"] for row in candidates)
    assert exports_checkpoint(run, found["best_step"])


@pytest.mark.slow
def test_a_run_from_the_checkpoint_of_another_run_has_a_best_state_of_its_own(run: Path, tmp_path: Path) -> None:
    words = ("train.duration=5ep", "checkpoint.keep_last=9", "sched=constant", "optim.lr=0.3")
    trained(tmp_path / "other", *words, f"resume={run}")
    found = result(tmp_path / "other")
    assert found["best_step"] == 50
    assert found["best"] == val_rows(tmp_path / "other")[-1]["accuracy"]
    assert exports_checkpoint(tmp_path / "other", 50)


@pytest.mark.slow
def test_the_screen_marks_each_step_to_which_the_best_weights_move(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of equally good states the later one is kept."""
    words = (
        "data=digits",
        "model=mlp",
        "train.max_examples=100",
        "train.duration=3ep",
        "optim.lr=1e-12",
        "sched=constant",
    )
    assert main([*words, "log.report=false", f"run_dir={tmp_path}/ties"]) == 0
    rows = val_rows(tmp_path / "ties")
    assert len({row["accuracy"] for row in rows}) == 1
    assert result(tmp_path / "ties")["best_step"] == rows[-1]["step"]
    assert capfd.readouterr().err.count("best so far") == len(rows) == 3


@pytest.mark.slow
def test_the_screen_calls_no_value_the_best_so_far_that_is_worse_than_before_the_resume(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = result(run)["best"]
    assert main(["resume", str(run), "train.duration=6ep", "optim.lr=1"]) == 0
    assert all(row["accuracy"] < before for row in val_rows(run)[-2:])
    assert "best so far" not in capfd.readouterr().err


def test_other_examples_to_evaluate_are_refused_because_the_best_value_is_of_the_saved_ones(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(run), "eval.max_examples=20", "--quiet"]) == 2
    assert "the best value so far was measured on other examples" in capsys.readouterr().err


STOPPING = ("monitor=[early_stopping]", "monitor.early_stopping.min_delta=0.9", "sched=constant", "train.duration=6ep")


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended after its second evaluation of six, because no improvement is large enough for it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert trained(folder, *STOPPING, "monitor.early_stopping.patience=1")["steps"] == 20
    return folder


@pytest.fixture
def stopped(stopped_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(stopped_run, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "steps", "is_stopped"),
    [
        (["monitor.early_stopping.patience=3"], 40, True),
        (["monitor.early_stopping.patience=9"], 60, False),
        (["monitor.early_stopping.min_delta=0", "monitor.early_stopping.patience=5"], 60, False),
        (["monitor=[]"], 60, False),
        (["train.duration=9ep"], 30, True),
        (["train.duration=3ep", "monitor=[]"], 30, False),
        (["log.every=5step"], 20, True),
    ],
)
def test_an_early_stopped_run_continues_if_a_changed_setting_lets_it(
    words: list[str], steps: int, is_stopped: bool, stopped: Path
) -> None:
    found = resumed(stopped, *words)
    assert (found["status"], found["steps"], found["reason"] is not None) == ("done", steps, is_stopped)
    assert (stopped / "checkpoints" / f"step-{steps}").is_dir()


@pytest.mark.slow
def test_a_run_with_more_patience_ends_as_one_that_had_it_from_the_start(stopped: Path, tmp_path: Path) -> None:
    trained(tmp_path / "whole", *STOPPING, "monitor.early_stopping.patience=3")
    found = resumed(stopped, "monitor.early_stopping.patience=3")
    assert found["digest"] == result(tmp_path / "whole")["digest"]
    assert found["reason"] == result(tmp_path / "whole")["reason"]


@pytest.mark.slow
def test_early_stopping_can_be_added_on_resume_and_counts_from_the_first_evaluation(tmp_path: Path) -> None:
    trained(tmp_path / "run", "sched=constant", "train.duration=3ep")
    words = ["+monitor=[early_stopping]", "monitor.early_stopping.min_delta=0.9", "monitor.early_stopping.patience=3"]
    assert resumed(tmp_path / "run", *words, "train.duration=6ep")["steps"] == 40


@pytest.mark.slow
def test_an_extended_run_that_is_stopped_counts_from_its_extension(stopped: Path) -> None:
    """Once more from the checkpoint in the extended part: the row of the extension is in the metrics."""
    words = ["train.duration=9ep", "monitor.early_stopping.patience=2"]
    whole = resumed(stopped, *words)
    assert whole["steps"] == 40
    (stopped / "result.json").unlink()
    shutil.rmtree(stopped / "checkpoints" / "step-40")
    (stopped / "checkpoints" / "LAST").write_text("step-30\n")
    assert resumed(stopped)["digest"] == whole["digest"]
    assert [row["event"] for row in rows(stopped) if row["split"] == "event"] == ["stop", "extended", "stop"]


def test_other_monitors_cannot_change_on_resume(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(run), "monitor=[loss_spike]", "--quiet"]) == 2
    assert "monitor: [] → [loss_spike]" in capsys.readouterr().err
