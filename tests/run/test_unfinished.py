"""The best model of a run that was stopped, killed or that diverged can be used as that of a finished one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from methods import SCENES
from short_runs import broken_off, result, trained
from small_texts import RUN as TEXT_RUN
from small_texts import write_texts

import dnntrain
from dnntrain import evaluate, load, predict
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError, DivergedError
from dnntrain.run.directory import lock_folder

#: All states that change what is evaluated: an average, recomputed statistics.
LINE = ("train.duration=4ep", "average=[ema]", "checkpoint.keep_last=9", "sched=constant")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    trained(folder, *LINE)
    return folder


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """What a kill just before the end leaves: everything but the model and the result."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("result.json", "model.safetensors", "config.json", "evaluation.json", "results.csv"):
        (folder / name).unlink()
    return folder


@pytest.mark.slow
def test_a_killed_run_is_evaluated_with_its_best_weights(
    killed: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(killed) == evaluate(finished)
    step = result(finished)["best_step"]
    assert f"run is not done (status: unfinished); its model of step {step} is used" in capsys.readouterr().err
    weights, expected = load(killed).model.state_dict(), load(finished).model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_its_threshold_is_calibrated_with_its_best_weights(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, *SCENES, "task=multilabel", "task.threshold=calibrated", "train.duration=2ep")
    threshold, figures = load(folder).spec.output.threshold, evaluate(folder)
    for name in ("result.json", "model.safetensors", "config.json"):
        (folder / name).unlink()
    assert evaluate(folder) == figures
    assert load(folder).spec.output.threshold == threshold != 0.5


@pytest.mark.slow
def test_its_model_follows_the_run(finished: Path, tmp_path: Path) -> None:
    """Once used, it is not kept for a better one that the resumed run finds, nor for the end of the run."""
    folder = tmp_path / "run"
    broken_off(finished, folder, 10)
    (folder / "checkpoints" / "BEST").write_text("step-10\n")
    first = evaluate(folder, split="val")
    shutil.copytree(finished / "checkpoints" / "step-20", folder / "checkpoints" / "step-20")
    (folder / "checkpoints" / "BEST").write_text("step-20\n")
    assert evaluate(folder, split="val") != first
    trained(folder, *LINE)
    assert evaluate(folder) == evaluate(finished)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bench", "explain", "export", "predict", "prune"])
def test_every_command_that_reads_a_run_takes_it(
    command: str, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    shutil.copytree(killed, tmp_path / "other")
    words = {
        "explain": ["explain", str(killed), "--count", "1", "--against", str(tmp_path / "other")],
        "prune": ["prune", str(killed), "--sensitivity"],
        "predict": ["predict", str(killed), str(tmp_path / "picture.png")],
        "export": ["export", str(killed), "--format", "safetensors"],
        "bench": ["bench", str(killed), "--rounds", "1", "--seconds", "0.01", "--batches", "1"],
    }
    assert main(words[command]) == 0
    assert len(predict(killed, [tmp_path / "picture.png"])) == 1
    assert "is not done" in capsys.readouterr().err


def test_every_command_that_checks_a_model_writes_that_of_an_unfinished_run() -> None:
    for file in (Path(dnntrain.__file__).parent / "cli" / "commands").glob("*.py"):
        text = file.read_text()
        if "check_model(" in text:
            assert "write_unfinished_model(" in text or "export_trained(" in text, file


@pytest.mark.slow
def test_a_language_model_that_is_not_done_generates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main([*TEXT_RUN, f"data.path={write_texts(tmp_path / 'texts')}", f"run_dir={run}", "--quiet"]) == 0
    for name in ("result.json", "model.safetensors", "config.json"):
        (run / name).unlink()
    assert main(["generate", str(run), "--prompt", "Ada", "--tokens", "3"]) == 0
    captured = capsys.readouterr()
    assert "is not done" in captured.err
    assert "Ada" in captured.out


@pytest.mark.slow
def test_it_is_the_source_of_initial_weights_and_a_teacher(killed: Path, finished: Path, tmp_path: Path) -> None:
    short = ("train.duration=2step", "eval.run_test=false")
    for number, words in enumerate(([f"init_from={killed}"], ["distill=kd", f"distill.teacher={killed}"])):
        shutil.copytree(killed, tmp_path / f"source{number}")
        line = [word.replace(str(killed), str(tmp_path / f"source{number}")) for word in words]
        found = trained(tmp_path / f"from_killed{number}", *short, *line)
        line = [word.replace(str(killed), str(finished)) for word in words]
        assert found["digest"] == trained(tmp_path / f"from_finished{number}", *short, *line)["digest"]


@pytest.mark.slow
def test_a_diverged_run_has_the_best_model_before_it_diverged(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, *LINE[1:], "train.duration=2ep")
    before = evaluate(folder)
    with pytest.raises(DivergedError):
        trained(folder, *LINE, "optim.lr=1e20")
    assert result(folder)["status"] == "diverged"
    assert evaluate(folder) == before


def test_a_run_without_a_checkpoint_has_no_model(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(killed / "checkpoints")
    assert main(["eval", str(killed)]) == 5
    assert f"finish it with: dnntrain resume {killed}" in capsys.readouterr().err


def test_a_run_that_trains_is_left_alone(killed: Path) -> None:
    with lock_folder(killed), pytest.raises(ConfigError, match="in use"):
        evaluate(killed)
    assert not (killed / "model.safetensors").exists()
