"""Submit a run to Slurm as a batch job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_light_config
from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.utils.world import World


def compose_job(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the configuration of a job, and its overrides with launch=slurm among them."""
    if not any(word.lstrip("+").startswith("launch=") for word in overrides):
        overrides = ["launch=slurm", *overrides]
    container = compose(overrides, config_dir)
    _check_tasks(decode_light_config(container)[0])
    config = decode_new_run(container, World.from_environ())
    if config.launch.scheduler != "slurm":
        raise ConfigError("dnntrain submit is for launch=slurm", "leave out launch=, or use dnntrain train")
    return config, tuple(overrides)


def _check_tasks(config: LightConfig) -> None:
    """Raise ConfigError if several tasks would train one network each."""
    choice = config.launch
    if choice.nodes * choice.tasks_per_node > 1 and config.parallel.processes == "one":
        raise ConfigError(
            f"launch.nodes={choice.nodes} with {choice.tasks_per_node} ranks each trains one network in "
            f"{choice.nodes * choice.tasks_per_node} processes",
            "add parallel=ddp, or use launch.nodes=1 launch.nproc=1",
        )


def preview_job(config: RunConfig) -> str:
    """Return the batch script of a run whose directory does not exist yet."""
    return make_job_script(config, Path(config.run_dir or f"runs/{config.name}/ID").expanduser().absolute())


def make_job_script(config: LightConfig, folder: Path) -> str:
    """Return the batch script of a run in `folder`."""
    _check_tasks(config)
    program = [sys.executable, "-u", "-m", "dnntrain.run.worker", str(folder)]
    return config.launch.make_batch_script(config.name, folder, program)


def submit_job(config: RunConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Write the run directory and call sbatch; return {"status": "submitted", "job", "run_dir"}."""
    from dnntrain.run.directory import RunDirectory
    from dnntrain.utils.files import make_folder, write_text

    check_sbatch()
    directory = RunDirectory.open(config.run_dir, config.name)
    path = directory.path
    try:
        text = make_job_script(config, path)
        make_folder(path / "logs")
        write_text(path / "job.sh", text)
        directory.write_start({**config.resolved, "run_dir": str(path)}, list(overrides), {})
    finally:
        directory.close()
    job = submit_script(path / "job.sh")
    print(f"job {job} is submitted; its output: {path}/logs/slurm-{job}.txt", file=sys.stderr)
    return {"status": "submitted", "job": job, "run_dir": str(path)}


def check_sbatch() -> None:
    """Raise ConfigError if this machine has no sbatch, before anything is written."""
    import shutil

    if shutil.which("sbatch") is None:
        raise ConfigError(
            "sbatch was not found",
            "submit from a login node of the cluster; --dry-run prints the script",
        )


def submit_script(script: Path, options: Sequence[str] = ()) -> str:
    """Call sbatch and return the number of the job. Raises ConfigError if it fails."""
    import subprocess

    command = ["sbatch", "--parsable", *options, str(script)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"sbatch rejected the job: {error.stderr.strip()}", "--dry-run prints its script") from None
    return process.stdout.strip().split(";")[0]
