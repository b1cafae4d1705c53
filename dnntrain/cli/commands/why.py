"""`dnntrain why [RUN] [overrides]`: where the time of a step goes, and which settings gain the most."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.utils.json_files import format_json
from dnntrain.utils.world import World, check_single_process


def run(arguments: Arguments) -> int:
    """Print a table, or JSON. The result for a run as it was trained is kept in its folder."""
    check_single_process("why", starts_ranks=True)
    path = _get_path(arguments)
    if path is None:
        decode_new_run(compose(arguments.overrides, arguments.config_dir), World())
    from dnntrain.run.session import open_session
    from dnntrain.tune.lines import Line
    from dnntrain.tune.why import WHY_FILE, explain_step_time
    from dnntrain.tune.why_text import format_why
    from dnntrain.utils.json_files import write_json

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr)

    line = Line(arguments.overrides, arguments.config_dir, path, arguments.options["trust"])
    session = open_session(line.decode(), World(), tuned=arguments.tuned)
    result = explain_step_time(session, line, arguments.options["budget"].value, say)
    if path is not None and not arguments.overrides:
        write_json(path / WHY_FILE, result.as_json())
        say(f"kept in {path / WHY_FILE}; dnntrain report {path} shows it")
    if arguments.json:
        print(format_json(result.as_json()))
    else:
        print(*format_why(result), sep="\n")
    return 0


def _get_path(arguments: Arguments) -> Path | None:
    """Return the run directory of the line, if it names one."""
    from dnntrain.inference.run_args import get_run_path

    return get_run_path(arguments.positional[0]) if arguments.positional else None
