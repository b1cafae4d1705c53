"""A sweep with launch=slurm: a job for each trial. sbatch and squeue are small programs here; scripts/slurm_demo has real ones."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dnntrain.cli.main import main
from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import read_saved_config
from dnntrain.utils.sealed_json import write_sealed_json
from tests.support.short_runs import environment

Capture = pytest.CaptureFixture[str]

WORDS = ("optim.lr=0.004,0.001,0.002", "train.duration=1ep", "log.report=false")
LINE = ("-m", *WORDS, "launch=slurm", "launch.nproc=2", "parallel=ddp", "run_dir=a")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts an sbatch and a squeue on the path that keep their jobs in a folder, one file a job."""
    folder, programs = tmp_path / "queue", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    sbatch = f'n=$(($(ls {folder} | sort -n | tail -1) + 1)); echo "$@" > {folder}/$n; echo $n'
    for name, text in {"sbatch": sbatch, "squeue": f"for n in $(ls {folder}); do echo $n PENDING; done"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def list_statuses(capsys: Capture, *options: str) -> list[str]:
    assert main([*LINE, "--json", *options]) == 0
    return [row["status"] for row in json.loads(capsys.readouterr().out)]


def test_each_trial_becomes_a_job(queue: Path, capsys: Capture) -> None:
    assert list_statuses(capsys, "--dry-run") == ["waiting"] * 3
    assert not Path("a").exists()
    assert list_statuses(capsys, "--jobs", "2") == ["queued"] * 3
    jobs = [(queue / str(number)).read_text().split() for number in (1, 2, 3)]
    assert [job[1:3] for job in jobs] == [[f"--job-name=a.{slot}", "--dependency=singleton"] for slot in (0, 1, 0)]
    scripts = [Path(job[-1]) for job in jobs]
    assert [script.parent.name for script in scripts] == ["1-optim.lr=0.004", "2-optim.lr=0.001", "3-optim.lr=0.002"]
    text = scripts[1].read_text()
    assert "#SBATCH --ntasks-per-node=2" in text
    assert f"dnntrain.run.worker {scripts[1].parent}" in text
    assert read_saved_config(scripts[1].parent)["optim"]["lr"] == 0.001
    with Path("a/results.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["queued"] * 3


@pytest.mark.slow
def test_the_same_command_submits_what_the_queue_has_lost(queue: Path, capsys: Capture) -> None:
    assert list_statuses(capsys) == ["queued"] * 3
    assert "--dependency" not in (queue / "1").read_text()
    (queue / "2").unlink()
    assert list_statuses(capsys, "--dry-run") == ["queued", "waiting", "queued"]
    assert list_statuses(capsys) == ["queued"] * 3
    assert sorted(path.name for path in queue.iterdir()) == ["1", "3", "4"]


@pytest.mark.slow
def test_a_trial_whose_result_is_written_is_not_submitted_again(queue: Path, capsys: Capture) -> None:
    list_statuses(capsys)
    trial = next(Path("a").glob("1-*"))
    digest = compute_digest(read_saved_config(trial))
    write_sealed_json(trial / "result.json", {"status": "done", "config_digest": digest, "value": 0.5})
    for job in queue.iterdir():
        job.unlink()
    assert list_statuses(capsys) == ["done", "queued", "queued"]
    assert len(list(queue.iterdir())) == 2


@pytest.mark.slow
def test_the_status_has_the_values_of_finished_trials(queue: Path, capsys: Capture) -> None:
    list_statuses(capsys)
    for trial, best in zip(sorted(Path("a").glob("?-*")), (0.5, 0.9375, 0.875), strict=True):
        digest = compute_digest(read_saved_config(trial))
        result = {"status": "done", "config_digest": digest, "best": best, "value": 0.75, "steps": 20, "wall_s": 3.0}
        write_sealed_json(trial / "result.json", result)
        metrics = [{"name": "accuracy", "higher_is_better": True, "unit": "%"}]
        write_sealed_json(trial / "plan.json", {"metrics": metrics})
    assert main([*LINE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("done, 20 steps, val accuracy 50.00%, test accuracy 75.00%, 3.0s")
    assert lines[2].endswith("done, 20 steps, val accuracy 93.75%, test accuracy 75.00%, 3.0s ★")
    assert lines[4] == "★ best val accuracy"


@pytest.mark.slow
def test_a_trial_that_diverged_is_shown_and_not_submitted_again(queue: Path, capsys: Capture) -> None:
    list_statuses(capsys)
    trial = next(Path("a").glob("2-*"))
    digest = compute_digest(read_saved_config(trial))
    reason = {"status": "diverged", "config_digest": digest, "reason": "the loss of step 2 is nan", "exit_code": 4}
    write_sealed_json(trial / "result.json", reason)
    (queue / "2").unlink()
    assert main([*LINE]) == 0
    assert "diverged: the loss of step 2 is nan" in capsys.readouterr().out.splitlines()[2]
    assert sorted(path.name for path in queue.iterdir()) == ["1", "3"]
    for path in sorted(Path("a").glob("[13]-*")):
        digest = compute_digest(read_saved_config(path))
        write_sealed_json(path / "result.json", {"status": "done", "config_digest": digest})
    for job in queue.iterdir():
        job.unlink()
    assert main([*LINE]) == 4


@pytest.mark.slow
def test_a_job_is_found_by_its_script_if_the_command_was_killed_at_once(queue: Path, capsys: Capture) -> None:
    list_statuses(capsys)
    for path in Path("a").glob("*/job.json"):
        assert json.loads(path.read_text())["user"]
        path.unlink()
    text = f'for n in $(ls {queue}); do echo $n PENDING $(grep -o "[^ ]*job.sh" {queue}/$n); done'
    (queue.parent / "programs" / "squeue").write_text(f"#!/bin/sh\n{text}\n")
    assert list_statuses(capsys) == ["queued"] * 3
    assert len(list(queue.iterdir())) == 3


def test_a_dry_run_prints_the_script_of_the_next_job(queue: Path, capsys: Capture) -> None:
    assert main([*LINE, "launch.partition=short", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "the batch script of trial 1, and 2 other jobs alike:\n\n#!/bin/bash\n" in text
    assert "#SBATCH --partition=short" in text
    assert f"dnntrain.run.worker {Path('a').absolute() / '1-optim.lr=0.004'}" in text
    assert not Path("a").exists()


@pytest.mark.slow
def test_the_status_needs_no_queue(queue: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    list_statuses(capsys)
    monkeypatch.setenv("PATH", "/nowhere")
    assert list_statuses(capsys, "--dry-run") == ["waiting"] * 3


@pytest.mark.slow
def test_the_status_of_submitted_jobs_imports_no_torch(queue: Path, capsys: Capture) -> None:
    assert list_statuses(capsys) == ["queued"] * 3
    script = "import sys; from dnntrain.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", script, *LINE, "--dry-run", "--json"], env=environment(), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert [row["status"] for row in json.loads(process.stdout)] == ["queued"] * 3


@pytest.mark.parametrize("line", [LINE, ("submit", "launch=slurm", "run_dir=a")])
def test_without_sbatch_nothing_is_written(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([*line]) == 2
    assert "sbatch was not found" in capsys.readouterr().err
    assert not Path("a").exists()


def test_the_folder_of_a_sweep_is_not_called_a_broken_run(queue: Path, capsys: Capture) -> None:
    assert main([*LINE]) == 0
    assert main(["resume", "a"]) == 2
    assert "a is the folder of a sweep, not a run directory\n  repeat the command" in capsys.readouterr().err


@pytest.mark.slow
def test_a_queue_that_rejects_a_job_ends_the_command(queue: Path, capsys: Capture) -> None:
    (queue.parent / "programs" / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    assert main([*LINE]) == 2
    assert "sbatch rejected the job: invalid partition" in capsys.readouterr().err
    (queue.parent / "programs" / "squeue").write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    Path(next(Path("a").glob("1-*")), "job.json").write_text('{"job": "7"}')
    assert main([*LINE, "--dry-run"]) == 2
    assert "squeue failed: no controller" in capsys.readouterr().err


@pytest.mark.slow
def test_mistakes_of_all_trials_are_named_before_the_first_job(queue: Path, capsys: Capture) -> None:
    assert main([*LINE[:1], "optim.lr=-1,-2", *LINE[2:]]) == 2
    told = capsys.readouterr().err
    assert "optim.lr=-1" in told
    assert "optim.lr=-2" in told
    assert main(["-m", "launch=slurm,local", "run_dir=b"]) == 2
    assert "start two sweeps" in capsys.readouterr().err
    assert list(queue.iterdir()) == []


@pytest.mark.slow
def test_a_search_with_slurm_is_refused_with_a_line_that_works(queue: Path, capsys: Capture) -> None:
    line = [*LINE, "launch.cpus_per_rank=3", "launch.time=1:00:00", "launch.setup=['module load cuda']"]
    assert main([*line, "--metrics", "loss", "--jobs", "1"]) == 2
    told = capsys.readouterr().err
    assert "a search does not support launch=slurm" in told
    words = shlex.split(told.splitlines()[1].partition(": ")[2])
    assert words[:4] == ["sbatch", "--cpus-per-task=6", "--time=1:00:00", "--signal=B:TERM@120"]
    setup, command = words[4].removeprefix("--wrap=").split("; ")
    assert setup == "module load cuda"
    inner = shlex.split(command)
    assert inner[:2] == ["exec", "dnntrain"]
    assert "--metrics=loss" in inner
    assert main([*inner[2:], "--dry-run"]) == 0
    assert "every combination, 1 at once" in capsys.readouterr().out
    assert main([*line, "launch.nodes=2", "--metrics", "loss"]) == 2
    assert "sbatch" not in capsys.readouterr().err
