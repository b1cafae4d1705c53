"""`dnntrain slurm [overrides]`: hands a run to Slurm as a batch job; with --print shows the script and submits nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError


def run(arguments: Arguments) -> int:
    """Submits what the overrides describe, with launch=slurm."""
    has_launch_choice = any(word.lstrip("+").startswith("launch=") for word in arguments.overrides)
    overrides = list(arguments.overrides) if has_launch_choice else ["launch=slurm", *arguments.overrides]
    config = decode_config(compose(overrides, arguments.config_dir))
    if config.launch.scheduler != "slurm":
        raise ConfigError("dnntrain slurm is for launch=slurm", "leave out launch=, or use dnntrain train")
    dir_option = () if arguments.config_dir is None else (f"--config-dir={arguments.config_dir.absolute()}",)
    if arguments.print_only:
        print(make_job_script(config, Path(config.run_dir or f"runs/{config.name}/ID").expanduser().absolute()), end="")
        return 0
    print(submit_job(config, [*dir_option, *overrides])["run_dir"])
    return 0


def make_job_script(config: RunConfig, folder: Path) -> str:
    """The batch script of a run in `folder`."""
    from dnntrain.choices.launch._slurm_script import make_batch_script

    choice = config.launch
    if choice.nodes * choice.tasks_per_node > 1 and config.parallel.processes == "one":
        raise ConfigError(
            f"launch.nodes={choice.nodes} with {choice.tasks_per_node} ranks each trains one network in "
            f"{choice.nodes * choice.tasks_per_node} processes",
            "add parallel=ddp, or use launch.nodes=1 launch.nproc=1",
        )
    program = [sys.executable, "-u", "-m", "dnntrain.run.worker", str(folder)]
    return make_batch_script(choice, config.name, folder, program)


def submit_job(config: RunConfig, overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Writes the run directory and hands the job to sbatch; returns {"status": "submitted", "job", "run_dir"}."""
    import subprocess

    from dnntrain.run.directory import RunDirectory
    from dnntrain.utils.files import write_text

    directory = RunDirectory.open(config.run_dir, config.name)
    path = directory.path
    try:
        text = make_job_script(config, path)
        (path / "logs").mkdir(exist_ok=True)
        write_text(path / "job.sh", text)
        directory.write_start({**config.resolved, "run_dir": str(path)}, list(overrides), {})
    finally:
        directory.close()
    command = ["sbatch", "--parsable", str(path / "job.sh")]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ConfigError(
            "there is no sbatch here", "submit from a login node of the cluster; --print shows the script"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"sbatch refuses the job: {error.stderr.strip()}", "dnntrain slurm … --print shows it"
        ) from None
    job = process.stdout.strip().split(";")[0]
    print(f"job {job} is submitted; its output: {path}/logs/slurm-{job}.txt", file=sys.stderr)
    return {"status": "submitted", "job": job, "run_dir": str(path)}
