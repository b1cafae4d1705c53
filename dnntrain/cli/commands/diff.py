"""`dnntrain diff RUN RUN`: what differs between two runs, and the step where they part."""

from __future__ import annotations

from dnntrain.cli.parser import Arguments
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print the differences as lines, or as one JSON object."""
    from dnntrain.diff.run_diff import check_different, diff_runs, format_diff
    from dnntrain.inference.run_args import get_run_path

    first, second = map(get_run_path, arguments.positional)
    check_different((first, second))
    options = arguments.options
    diff = diff_runs((first, second), replay=options["replay"], max_steps=options["steps"], trust=options["trust"])
    if arguments.json:
        print(format_json({"a": str(first), "b": str(second), **diff.as_json()}))
    else:
        print("\n".join(format_diff(diff, (first, second))))
    return 0
