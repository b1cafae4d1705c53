"""`dnntrain submit [overrides]`: submit a run to Slurm as a batch job."""

from __future__ import annotations

from dnntrain.cli.parser import Arguments
from dnntrain.run.slurm_job import compose_job, preview_job, submit_job
from dnntrain.utils.json_files import format_json
from dnntrain.utils.words import add_config_dir


def run(arguments: Arguments) -> int:
    """Submit the run that the overrides describe, with launch=slurm.

    With --dry-run it prints the batch script instead.
    """
    config, overrides = compose_job(arguments.overrides, arguments.config_dir)
    if arguments.tuned is not None:
        arguments.tuned.check_without_session(config)
    if arguments.options["dry_run"]:
        script = preview_job(config)
        print(format_json({"script": script}) if arguments.json else script.rstrip("\n"))
        return 0
    job = submit_job(config, add_config_dir(arguments.config_dir, overrides))
    print(format_json(job) if arguments.json else job["run_dir"])
    return 0
