"""Sweeps as a person starts them: real trials in real processes."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fault_runs import role
from safetensors.torch import save_file
from short_runs import SHORT, comparable, environment, result, trained

from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.cli.main import main
from dnntrain.nn.shape import ModelShape
from dnntrain.run.directory import RunDirectory
from dnntrain.sweep.processes import MARK_VARIABLE, end_processes, find_processes
from dnntrain.sweep.resources import ResourceDemand, Resources
from dnntrain.sweep.sweep_directory import Trial
from dnntrain.sweep.trial_runner import make_environment as environment_of_trial

Capture = pytest.CaptureFixture[str]

TINY = (*(word for word in SHORT if "optim.lr" not in word and "duration" not in word), "train.duration=1ep")


def results(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv."""
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def by_trial(folder: Path) -> dict[str, Path]:
    """The run directories of a sweep by what distinguishes them."""
    return {row["overrides"]: Path(row["run_dir"]) for row in results(folder)}


def processes_of(folder: Path) -> dict[int, str]:
    """The live processes of `folder` or a folder below it: number → command line."""
    found = dict.fromkeys((number for path in folder.glob("*/") for number in find_processes(path)), "forked")
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"{folder}" in line and int(entry.name) != os.getpid():
                found[int(entry.name)] = line
    return found


def agents(folder: Path) -> list[int]:
    return [process for process in processes_of(folder) if role(process) == "agent"]


def ranks(folder: Path) -> list[int]:
    return [process for process in processes_of(folder) if role(process) == "rank"]


def test_every_mistake_of_every_trial_is_told_before_anything_starts(tmp_path: Path, capsys: Capture) -> None:
    words = ["-m", "optim.lr=-1,-2,0.1", "sched=cosine,cosin", "model=nope", f"run_dir={tmp_path / 'a'}"]
    assert main(words) == 2
    text = capsys.readouterr().err
    for mistake in ("4 mistakes", "optim.lr=-1", "optim.lr=-2", "did you mean 'cosine'", "model=nope"):
        assert mistake in text
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_trial_that_has_no_plan_is_told_before_anything_starts(tmp_path: Path, capsys: Capture) -> None:
    words = ["-m", "train.micro_batch_size=8,64", "parallel=ddp,single", f"run_dir={tmp_path / 'a'}"]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "train.micro_batch_size=64 parallel=single: " in text
    assert "micro_batch_size=8 " not in text
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["reg=[l1,label_smoothing],[label_smoothing,l1]"], "are the same run"),
        (["optim.lr=0.1,1e-1"], "0.1 appears twice"),
        (["seed=1,2", "resume=never"], "name another run_dir to start again"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(words: list[str], reason: str, capsys: Capture) -> None:
    assert main(["-m", *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_lists_the_trials_and_makes_nothing(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "a"
    words = ["sched=cosine,step", "reg=[l1],[]", "parallel=ddp", "launch.nproc=3", f"run_dir={folder}"]
    assert main(["sweep", "--dry-run", "--json", *words]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [trial["overrides"] for trial in listed["trials"]] == [
        "sched=cosine reg=[l1]",
        "sched=cosine reg=[]",
        "sched=step reg=[l1]",
        "sched=step reg=[]",
    ]
    assert main(["-m", "--dry-run", *words]) == 0
    text = capsys.readouterr().out
    assert text.startswith("4 trials, ")
    assert text.count("3 processes  waiting") == 4
    assert not folder.exists()


@pytest.mark.slow
def test_without_run_dir_the_folder_follows_from_what_the_trials_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)

    def folder(*words: str) -> Path:
        assert main(["-m", "--dry-run", "--json", *words]) == 0
        return Path(json.loads(capsys.readouterr().out)["folder"])

    first = folder("optim.lr=0.1,0.01")
    assert first.parent == tmp_path / "runs" / "small_cnn-digits"
    assert first == folder("optim.lr=choice(1e-1,1e-2)")
    assert first != folder("optim.lr=0.1,0.01", "seed=1")


def test_an_end_of_processes_reaches_children_in_sessions_of_their_own(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    begin = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{begin}; {sleep}"], env={**os.environ, MARK_VARIABLE: str(tmp_path)}
    )
    other = subprocess.Popen([sys.executable, "-c", sleep], env={**os.environ, MARK_VARIABLE: f"{tmp_path}x"})
    try:
        while len(find_processes(tmp_path)) < 2:
            time.sleep(0.02)
        parent.kill()
        parent.wait()
        assert end_processes(tmp_path) == 1
        assert find_processes(tmp_path) == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two trials, done."""
    folder = tmp_path_factory.mktemp("sweep") / "done"
    assert main(["-q", "-m", *TINY, "optim.lr=0.004,0.002", f"run_dir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_each_trial_is_the_run_that_its_line_alone_makes(finished: Path, tmp_path: Path) -> None:
    alone = trained(tmp_path / "alone", *TINY, "optim.lr=0.002")
    folder = by_trial(finished)["optim.lr=0.002"]
    assert folder == finished / "2-optim.lr=0.002"
    assert result(folder)["digest"] == alone["digest"]
    assert comparable(folder) == comparable(tmp_path / "alone")


@pytest.mark.slow
def test_results_hold_a_row_for_each_trial(finished: Path) -> None:
    rows = results(finished)
    assert [row["overrides"] for row in rows] == ["optim.lr=0.004", "optim.lr=0.002"]
    for row in rows:
        truth = result(Path(row["run_dir"]))
        assert (row["status"], row["metric"]) == ("done", "accuracy")
        assert (float(row["value"]), float(row["best"])) == (truth["value"], truth["best"])
        assert int(row["steps"]) == truth["steps"] == 10


@pytest.mark.slow
def test_the_same_line_skips_what_is_done(finished: Path, capsys: Capture) -> None:
    before = {folder: (folder / "result.json").stat().st_mtime_ns for folder in by_trial(finished).values()}
    assert main(["-m", *TINY, "optim.lr=0.004,0.002", f"run_dir={finished}"]) == 0
    captured = capsys.readouterr()
    assert "started" not in captured.err
    assert captured.out == f"{finished / 'results.csv'}\n"
    assert before == {folder: (folder / "result.json").stat().st_mtime_ns for folder in before}


@pytest.mark.slow
def test_a_report_of_a_sweep_compares_its_trials(finished: Path, capsys: Capture) -> None:
    assert main(["report", str(finished)]) == 0
    page = finished / "comparison.html"
    assert str(page) in capsys.readouterr().out
    assert "2-optim.lr=0.002" in page.read_text()


@pytest.mark.slow
def test_more_values_in_the_same_folder_train_only_what_is_new(finished: Path, capsys: Capture) -> None:
    words = ["-m", *TINY, "optim.lr=0.001,0.004,0.002", f"run_dir={finished}", "--dry-run", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["trials"]
    assert [row["status"] for row in rows] == ["waiting", "done", "done"]


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(finished: Path, capsys: Capture) -> None:
    words = [word for word in TINY if "crop.padding" not in word]
    assert main(["-m", *words, "augment.crop.padding=1", "optim.lr=0.004,0.002", f"run_dir={finished}"]) == 2
    text = capsys.readouterr().err
    assert "2 mistakes" in text
    assert "1-optim.lr=0.004: augment.crop.padding: 0 → 1" in text


def test_a_trial_has_the_devices_and_cores_of_its_slot(tmp_path: Path) -> None:
    trial = Trial(1, (), (), {}, tmp_path, ResourceDemand(2, devices=2))
    made = environment_of_trial(
        trial, Resources(("4", "GPU-a"), (0, 1, 2, 3, 4, 5)), {"OMP_NUM_THREADS": "64", "HOME": "/h"}
    )
    assert (made["CUDA_VISIBLE_DEVICES"], made["OMP_NUM_THREADS"], made["HOME"]) == ("4,GPU-a", "3", "/h")
    made = environment_of_trial(trial, Resources((), (0, 1, 2, 3, 4, 5)), {"OMP_NUM_THREADS": "1"})
    assert (made.get("CUDA_VISIBLE_DEVICES"), made["OMP_NUM_THREADS"]) == (None, "1")


def test_a_trial_that_names_an_accelerator_sees_all(tmp_path: Path) -> None:
    trial = Trial(1, (), (), {}, tmp_path, ResourceDemand(1, devices=1, device=1))
    assert "CUDA_VISIBLE_DEVICES" not in environment_of_trial(trial, Resources(("0",), (0,)), {})


@pytest.mark.parametrize("word", ["-m", "sweep"])
def test_a_sweep_under_torchrun_is_refused_with_the_fix(word: str, dnntrain: Callable[..., Any]) -> None:
    done = dnntrain(word, "optim.lr=1,2", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert done.returncode == 2
    assert "every rank would run" in done.stderr
    assert "start it without torchrun" in done.stderr


@pytest.mark.slow
def test_a_sweep_within_a_job_of_slurm_trains_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "0")
    words = [*TINY, "optim.lr=0.004,0.001", "parallel=ddp", "launch.nproc=2", f"run_dir={tmp_path}/a"]
    assert main(["-q", "-m", *words]) == 0
    assert [row["status"] for row in results(tmp_path / "a")] == ["done", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [("parallel=single",), ("parallel=ddp", "launch.nproc=2")], ids=["single", "ddp"])
def test_the_exit_code_is_that_of_the_first_trial_that_is_not_done(layout: tuple[str, ...], tmp_path: Path) -> None:
    folder, damaged = tmp_path / "a", tmp_path / "damaged.safetensors"
    network = SmallCnn().build(
        ModelShape(10, 1, 8, 8)
    )  # its names and shapes fit, which is all that is looked at before
    save_file({name: tensor * math.nan for name, tensor in network.state_dict().items()}, damaged)
    words = [*TINY, f"init_from=null,{damaged}", *layout, f"run_dir={folder}"]
    assert main(["-q", "-m", *words]) == 5
    assert [row["status"] for row in results(folder)] == ["done", "failed"]


@pytest.mark.slow
def test_a_trial_in_use_elsewhere_is_refused_and_the_others_run(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    taken = RunDirectory.open(str(folder / "1-optim.lr=0.004"), "taken")
    try:
        assert main(["-q", "-m", *TINY, "optim.lr=0.004,0.002", f"run_dir={folder}"]) == 2
    finally:
        taken.close()
    assert [row["status"] for row in results(folder)] == ["refused", "done"]


@pytest.mark.slow
def test_data_that_are_missing_are_told_before_anything_starts(tmp_path: Path, capsys: Capture) -> None:
    words = ["data=mnist", "data.download=false", f"data.root={tmp_path}", "seed=1,2", f"run_dir={tmp_path / 'a'}"]
    assert main(["-m", *words]) == 3
    assert "1-seed=1: " in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_trial_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "a"
    assert main(["-m", *TINY, "optim=sgd", "optim.lr=1e30,0.01", f"run_dir={folder}", "--jobs", "1"]) == 4
    assert [row["status"] for row in results(folder)] == ["diverged", "done"]
    text = capsys.readouterr().err
    assert "trial 1/2 optim.lr=1e+30: diverged" in text
    assert "training has diverged" in text


#: Long enough to be stopped on the way.
LONG = (*TINY[:-1], "train.duration=40ep", "checkpoint.every=10step", "eval.every=5ep")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dnntrain", "-m", *words, f"run_dir={folder}"]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows_of(folder: Path) -> int:
    """How many rows of metrics the trials of a sweep have written."""
    count = 0
    for path in folder.glob("*/metrics.jsonl"):
        with suppress(OSError):
            count += path.read_bytes().count(b"\n")
    return count


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "status"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "preempted")]
)
def test_a_signal_has_the_trials_saved_and_the_same_line_goes_on(
    number: signal.Signals, code: int, status: str, tmp_path: Path
) -> None:
    folder, words = tmp_path / "a", (*LONG, "optim.lr=0.004,0.002")
    process = start(folder, *words)
    wait_for(lambda: rows_of(folder) > 6, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "run the same command again to resume it" in errors
    assert not processes_of(folder)
    assert status in {row["status"] for row in results(folder)}
    process = start(folder, *words)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [row["status"] for row in results(folder)] == ["done", "done"]
    alone = trained(tmp_path / "alone", *LONG, "optim.lr=0.004")
    assert result(by_trial(folder)["optim.lr=0.004"])["digest"] == alone["digest"]


DDP = (
    *TINY[:-1],
    "train.duration=8ep",
    "checkpoint.every=10step",
    "parallel=ddp",
    "launch.nproc=2",
    "sched=cosine,step,linear",
    "optim.lr=0.004,0.002",
    "--jobs",
    "2",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep of six trials of two ranks that nobody disturbs."""
    folder = tmp_path_factory.mktemp("sweep") / "undisturbed"
    process = start(folder, *DDP)
    _, errors = process.communicate(timeout=420)
    assert process.returncode == 0, errors
    yield folder
    assert not processes_of(folder)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_of_a_rank_an_agent_and_the_parent_change_no_bit(seed: int, undisturbed: Path, tmp_path: Path) -> None:
    folder, chance = tmp_path / "killed", random.Random(seed)
    total = rows_of(undisturbed)
    points = sorted(chance.sample(range(total // 10, total * 8 // 10), 3))
    kinds = [ranks, agents] if seed else [agents, ranks]
    process = start(folder, *DDP)
    for rows, victims in zip(points, kinds, strict=False):
        wait_for(lambda rows=rows: rows_of(folder) >= rows, process, timeout_s=250)  # type: ignore[misc]
        wait_for(lambda victims=victims: victims(folder), process)  # type: ignore[misc]
        with suppress(ProcessLookupError):
            os.kill(chance.choice(victims(folder)), signal.SIGKILL)
    # Trials that were killed before their first row leave fewer rows: the sweep may end first.
    until = time.monotonic() + 250
    while rows_of(folder) < points[2] and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while left := processes_of(folder):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    process = start(folder, *DDP)
    _, errors = process.communicate(timeout=420)
    assert process.returncode == 0, errors
    assert not processes_of(folder)
    assert [row["status"] for row in results(folder)] == ["done"] * 6
    expected = by_trial(undisturbed)
    for label, run in by_trial(folder).items():
        assert result(run)["digest"] == result(expected[label])["digest"]
        assert comparable(run) == comparable(expected[label])
