"""`dnntrain -m …`, `dnntrain sweep …`: start one run for each combination of values."""

from __future__ import annotations

import os
import sys

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError


def run(arguments: Arguments) -> int:
    """Run the trials. Return 0 if all are done, else the exit code of the first unfinished one."""
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "a sweep cannot run under torchrun, because every rank would run all of it",
            "start it without torchrun; it starts launch.nproc processes for each trial itself",
        )
    options = arguments.options
    if options["search"] != "grid" or options["stop_early"] or options["metrics"]:
        return _run_search(arguments)
    from dnntrain.sweep.prepare import prepare_sweep

    sweep = prepare_sweep(arguments.overrides, arguments.config_dir, jobs=options["jobs"], quiet=arguments.quiet)
    from dnntrain.sweep.queued_sweep import QueuedSweep, format_queue, get_queue_exit_code, submit_sweep

    if isinstance(sweep, QueuedSweep):
        statuses = submit_sweep(sweep, arguments.config_dir, options["jobs"], options["dry_run"])
        print(format_queue(sweep, statuses, arguments.json, with_script=options["dry_run"]))
        return get_queue_exit_code(statuses)
    from dnntrain.sweep.run_sweep import format_listing, format_results, run_sweep
    from dnntrain.sweep.sweep_directory import get_exit_code

    if options["dry_run"]:
        print(format_listing(sweep, arguments.json))
        return 0
    statuses = run_sweep(sweep, arguments.config_dir, arguments.display)
    print(format_results(sweep, statuses, arguments.json))
    return get_exit_code(statuses)


def _run_search(arguments: Arguments) -> int:
    """Search for the best values. Return 0 if a trial has a result, else the exit code of a failed one."""
    from dnntrain.sweep.prepare_search import SearchOptions, prepare_search

    options = arguments.options
    names = ("search", "trials", "stop_early", "metrics", "jobs")
    search_options = SearchOptions(**{name: options[name] for name in names if options[name] is not None})
    search = prepare_search(arguments.overrides, search_options, arguments.config_dir, quiet=arguments.quiet)
    from dnntrain.sweep.run_search import get_search_exit_code, run_search
    from dnntrain.sweep.search_text import describe_search, format_plan, format_search

    if options["dry_run"]:
        print(format_plan(search, arguments.json))
        return 0
    state = run_search(search, arguments.display)
    if not arguments.quiet:
        print(*describe_search(state), sep="\n", file=sys.stderr)
    print(format_search(state, arguments.json))
    return get_search_exit_code(state)
