"""`dnntrain -m …`, `dnntrain sweep …`: one run for each combination of values."""

from __future__ import annotations

import os

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError


def run(arguments: Arguments) -> int:
    """Run the trials. Return 0 if all are done, else the exit code of the first one that is not."""
    from dnntrain.sweep.prepare import prepare_sweep

    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "a sweep under torchrun is refused: every rank would run all of it",
            "start it without torchrun; it starts the processes of each trial itself, as many as launch.nproc says",
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
