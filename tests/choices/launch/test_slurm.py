"""The batch script of launch=slurm, and how a task of srun becomes a rank."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dnntrain.choices.launch._slurm_script import make_batch_script
from dnntrain.choices.launch.slurm import SlurmLaunch
from dnntrain.cli.main import main
from dnntrain.run.worker import set_rank_from_slurm

RUN = Path("/runs/a b")


def script(**knobs: object) -> str:
    return make_batch_script(SlurmLaunch(**knobs), "name", RUN, ["python", "-m", "rank", str(RUN)])  # type: ignore[arg-type]


def test_the_script_is_one_that_a_shell_accepts() -> None:
    checked = subprocess.run(["bash", "-n"], input=script(setup=("module load cuda",)), text=True, check=False)
    assert checked.returncode == 0


def test_what_is_set_is_asked_for_and_what_is_not_is_left_to_the_cluster() -> None:
    text = script(nodes=2, gpus_per_node=8, time="1:30:00", partition="short", mem_per_node="64G", cpus_per_rank=4)
    for option in ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "time=1:30:00", "partition=short", "mem=64G"):
        assert f"#SBATCH --{option}\n" in text
    assert "partition" not in script()
    assert "'/runs/a b'" in script()
    # srun does not inherit it from the job.
    assert "\nsrun --cpus-per-task=4 --kill-on-bad-exit=0 " in text
    assert "\nsrun --kill-on-bad-exit=0 " in script()


def test_a_preempted_run_is_queued_again_unless_not_wanted() -> None:
    assert "scontrol requeue" in script()
    assert "scontrol requeue" not in script(requeue=False)


@pytest.mark.parametrize(
    ("state", "is_queued_again"),
    [
        ("JobState=RUNNING Reason=None PreemptTime=None", True),
        ("JobState=COMPLETING PreemptTime=2026-01-02T03:04:05", True),
        ("JobState=COMPLETING Reason=None PreemptTime=None", False),  # scancel
    ],
)
def test_a_job_that_is_canceled_is_not_queued_again(state: str, is_queued_again: bool, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    for name, body in {
        "srun": "exit 75",
        "scontrol": f'echo "$*" >> {asked}; [ "$1" = show ] && echo "{state}"; exit 0',
        "sleep": "exit 0",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script()], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert ("requeue 7" in asked.read_text().splitlines()) == is_queued_again
    assert ("queued again" in done.stdout) == is_queued_again


def test_the_ranks_of_one_node_meet_on_its_loopback_interface() -> None:
    assert "export MASTER_ADDR=127.0.0.1\n" in script(nproc=2)
    assert 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST"' in script(nodes=2)


def test_each_job_has_a_secret_of_its_own() -> None:
    (line,) = [line for line in script(nodes=2).splitlines() if "DNNTRAIN_SECRET" in line]
    shown = [
        subprocess.run(["bash", "-c", f'{line}; echo "$DNNTRAIN_SECRET"'], capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert shown[0] != shown[1]
    assert all(len(secret.strip()) == 32 and int(secret, 16) for secret in shown)


def test_a_task_of_srun_is_a_rank() -> None:
    environ = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
    set_rank_from_slurm(environ)
    assert {name: environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
    }


def test_dry_run_shows_the_script_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "parallel=ddp", "launch.nproc=2", "--dry-run"]) == 0
    assert "#SBATCH --ntasks-per-node=2" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_several_ranks_of_one_network_each_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "launch.nproc=2", "--dry-run"]) == 2
    assert "add parallel=ddp" in capsys.readouterr().err
