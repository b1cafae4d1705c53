"""A run that is stopped anywhere and started again by the same line ends bitwise as the run that never stopped."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from short_runs import broken_off, comparable, environment, result, trained
from warm_process import WarmProcess

from dnntrain import plan
from dnntrain.errors import CheckpointError, ConfigError

#: Steps long enough to be hit by a signal; everything that has a state is in it.
LINE = (
    "train.duration=3ep",
    "train.batch_size=16",
    "train.micro_batch_size=12",
    "augment.crop.padding=1",
    "reg=[label_smoothing]",
    "augment=[crop,flip,random_erasing]",
    "average=[ema]",
    "model.dropout=0.2",
    "monitor=[early_stopping]",
    "checkpoint.every=20step",
    "eval.every=50step",
    "log.every=7step",
    "log.report=false",
)


def start(folder: Path, *words: str) -> WarmProcess:
    return WarmProcess((*LINE, f"run_dir={folder}", *words, "--quiet"))


def finish(folder: Path, *words: str) -> None:
    process = start(folder, *words)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def stop_at(folder: Path, step: int, number: signal.Signals, *words: str) -> int:
    """Starts a run, sends the signal once the metrics have come to `step`, returns the exit code."""
    process = start(folder, *words)
    metrics = folder / "metrics.jsonl"
    while process.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if len(lines) * 7 >= step:
            process.send_signal(number)
            break
        time.sleep(0.001)
    process.communicate(timeout=120)
    return process.returncode


def assert_equal_runs(a: Path, b: Path) -> None:
    assert result(a)["digest"] == result(b)["digest"]
    assert result(a)["value"] == result(b)["value"]
    assert comparable(a) == comparable(b)


@pytest.fixture(scope="module", params=["pipeline=resident", "pipeline=streaming"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    word = f"data.{request.param}"
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    # A process that imports everything itself has another order of sets.
    command = [sys.executable, "-m", "dnntrain", *LINE, f"run_dir={folder}", word, "data.num_workers=1", "--quiet"]
    subprocess.run(command, env=environment(), check=True)
    return word, folder


@pytest.mark.slow
def test_a_stop_in_mid_epoch_by_sigterm_and_sigkill_changes_no_bit(
    undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    word, whole = undisturbed
    folder = tmp_path / "run"
    assert stop_at(folder, 30, signal.SIGTERM, word, "data.num_workers=1") == 75
    assert result(folder)["status"] == "preempted"
    assert stop_at(folder, 110, signal.SIGKILL, word, "data.num_workers=1") == -signal.SIGKILL
    finish(folder, word, "data.num_workers=1")
    assert_equal_runs(folder, whole)


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGHUP, 75, "preempted", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 75, "preempted", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, 75, "preempted", marks=pytest.mark.slow),
    ],
)
def test_each_signal_saves_and_ends_with_its_code(
    tmp_path: Path, number: signal.Signals, code: int, status: str
) -> None:
    folder = tmp_path / "run"
    assert stop_at(folder, 21, number) == code
    assert result(folder)["status"] == status
    assert (folder / "checkpoints" / "LAST").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_stopped_by_its_budget_and_extended_by_resume_is_the_longer_run(tmp_path: Path, precision: str) -> None:
    from dnntrain.cli.main import main

    common = (f"precision={precision}", "sched=constant")
    trained(tmp_path / "long", *common, "train.duration=3ep")
    trained(tmp_path / "short", *common, "train.duration=17step")
    assert main(["resume", str(tmp_path / "short"), "train.duration=3ep", "--quiet"]) == 0
    assert result(tmp_path / "short")["digest"] == result(tmp_path / "long")["digest"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.hidden=64", "architecture"),
        ("seed=5", "seed"),
        ("optim=sgd", "optimizer"),
        ("optim.momentum=0.5", "optim"),
    ],
)
def test_resume_refuses_what_cannot_change_with_the_reason(
    short_run: Path, capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    from dnntrain.cli.main import main

    assert main(["resume", str(short_run), override, "--quiet"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_resume_refuses_a_length_that_the_run_has_gone_beyond(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dnntrain.cli.main import main

    assert main(["resume", str(short_run), "train.duration=1ep", "--quiet"]) == 2
    errors = capsys.readouterr().err
    assert "train.duration=1ep is 10 steps, but the run has already completed 30" in errors
    assert "train.duration=30step" in errors
    assert result(short_run)["steps"] == 30


@pytest.mark.slow
def test_resume_shows_what_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dnntrain.cli.main import main

    trained(tmp_path / "run")
    assert main(["resume", str(tmp_path / "run"), "train.duration=4ep", "eval.every=2ep", "--quiet"]) == 0
    errors = capsys.readouterr().err
    assert "train.duration: 3ep → 4ep" in errors
    assert result(tmp_path / "run")["steps"] == 40


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_passed_over_and_the_run_ends_the_same(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    stop_at(tmp_path / "run", 60, signal.SIGTERM)
    checkpoints = tmp_path / "run" / "checkpoints"
    last = checkpoints / (checkpoints / "LAST").read_text().strip() / "state-0.safetensors"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    finish(tmp_path / "run")
    assert "damaged" in (tmp_path / "run" / "log.txt").read_text()
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_went_back_to_an_earlier_checkpoint_has_none_of_the_later_ones(tmp_path: Path) -> None:
    words = (
        "train.max_examples=64",
        "sched=constant",
        "checkpoint.every=5step",
        "checkpoint.keep_last=9",
        "log.report=false",
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    trained(whole, *words, "train.duration=20step")
    broken_off(whole, run, 15)
    first = run / "checkpoints" / "step-5"
    trained(run, *words, "train.duration=7step", f"resume={first}")
    assert max(int(path.name.removeprefix("step-")) for path in first.parent.glob("step-*")) == 7
    trained(run, *words, "train.duration=20step")
    assert result(run)["digest"] == result(whole)["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("quant=qat",)], ids=["float", "qat"])
def test_a_run_goes_on_without_the_file_of_its_first_weights(
    words: tuple[str, ...], short_run: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(short_run, source)
    line = (f"init_from={source}", "train.duration=8step", "checkpoint.every=4step", *words)
    trained(tmp_path / "whole", *line)
    broken_off(tmp_path / "whole", tmp_path / "run", 4)
    shutil.rmtree(source)
    assert plan(*line, f"run_dir={tmp_path / 'run'}").total_steps == 8
    trained(tmp_path / "run", *line)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(CheckpointError, match="source"):
        trained(tmp_path / "run", *line, "resume=never")


@pytest.mark.slow
def test_ranks_go_on_and_export_without_the_file_of_their_first_weights(short_run: Path, tmp_path: Path) -> None:
    """Of a pipeline the main rank builds the whole network at the end once more."""
    source = tmp_path / "source"
    shutil.copytree(short_run, source)
    line = (f"init_from={source}", "train.duration=8step", "checkpoint.every=4step", "parallel=pp", "launch.nproc=2")
    trained(tmp_path / "whole", *line)
    broken_off(tmp_path / "whole", tmp_path / "run", 4)
    shutil.rmtree(source)
    trained(tmp_path / "run", *line)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_with_relative_paths_goes_on_from_another_working_directory(
    short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dnntrain.cli.main import main

    here, elsewhere = tmp_path / "he 'r\\e", tmp_path / "elsewhere"
    shutil.copytree(short_run, here / "teacher")
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    trained(Path("run"), "distill=kd", "distill.teacher=teacher", "init_from=teacher", "train.duration=8step")
    monkeypatch.chdir(elsewhere)
    assert main(["resume", str(Path("..", here.name, "run")), "train.duration=12step", "--quiet"]) == 0
    changed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("changed")]
    assert changed == ["changed: train.duration: 8step → 12step"]
    assert result(here / "run")["steps"] == 12
    assert main(["resume", str(here / "run"), "train.duration=16step", "--quiet"]) == 0
    assert result(here / "run")["steps"] == 16


@pytest.mark.slow
def test_a_run_whose_teacher_is_gone_says_that_it_needs_it(short_run: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(short_run, teacher)
    line = ("distill=kd", f"distill.teacher={teacher}")
    trained(tmp_path / "run", *line, "train.duration=8step")
    shutil.rmtree(teacher)
    with pytest.raises(ConfigError, match="A resumed run needs its original teacher") as caught:
        trained(tmp_path / "run", *line, "train.duration=12step")
    assert f"distill.teacher={teacher}: there is no such run directory" in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stops", [3, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stops_at_random_moments_change_no_bit(
    undisturbed: tuple[str, Path], tmp_path: Path, number: signal.Signals, stops: int
) -> None:
    word, whole = undisturbed
    moments = random.Random(int(number))
    for attempt in range(stops):
        folder = tmp_path / f"run{attempt}"
        process = start(folder, word, "data.num_workers=1")
        try:
            process.wait(timeout=1.5 + moments.uniform(0.0, 4.0))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        process.communicate(timeout=120)
        finish(folder, word, "data.num_workers=1")
        assert_equal_runs(folder, whole)


@pytest.mark.slow
def test_a_terminal_that_is_gone_does_not_keep_a_run_from_saving(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dnntrain", *LINE, f"run_dir={tmp_path / 'run'}", "--quiet"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "LAST").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 75
    assert result(tmp_path / "run")["status"] == "preempted"
