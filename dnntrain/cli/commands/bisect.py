"""`dnntrain bisect --good RUN --bad RUN`: which of the settings that differ lost the metric."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import get_run_path
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print the settings, or one JSON object."""
    given = arguments.options
    if given["good"] is None or given["bad"] is None:
        raise ConfigError(
            "bisect needs --good RUN and --bad RUN", "as in: dnntrain bisect --good runs/a/1 --bad runs/b/1"
        )
    good, bad = (get_run_path(str(given[name])) for name in ("good", "bad"))
    from dnntrain.prove.bisect import bisect_runs, format_bisection
    from dnntrain.prove.run_prove import ProveOptions

    options = ProveOptions(**{key: given[key] for key in ("metric", "margin", "alpha", "max_pairs", "trust")})
    folders = [Path(word.partition("=")[2]) for word in arguments.overrides]

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr)

    result = bisect_runs(good, bad, options, folders[-1] if folders else None, say)
    if arguments.json:
        print(format_json(result.as_json()))
    else:
        print(*format_bisection(result), sep="\n")
    return 0
