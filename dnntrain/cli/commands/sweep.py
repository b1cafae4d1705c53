"""`dnntrain -m …`, `dnntrain sweep …`: start one run for each combination of values."""

from __future__ import annotations

import os

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError


def run(arguments: Arguments) -> int:
    """Run the trials. Return 0 if all are done, else the exit code of the first unfinished one."""
    from dnntrain.sweep.prepare import prepare_sweep

    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "a sweep cannot run under torchrun, because every rank would run all of it",
            "start it without torchrun; it starts launch.nproc processes for each trial itself",
        )
    sweep = prepare_sweep(
        arguments.overrides, arguments.config_dir, jobs=arguments.options["jobs"], quiet=arguments.quiet
    )
    from dnntrain.sweep.run_sweep import format_listing, format_results, get_exit_code, run_sweep

    if arguments.options["dry_run"]:
        print(format_listing(sweep, arguments.json))
        return 0
    statuses = run_sweep(sweep, arguments.config_dir, arguments.display)
    print(format_results(sweep, statuses, arguments.json))
    return get_exit_code(statuses)
