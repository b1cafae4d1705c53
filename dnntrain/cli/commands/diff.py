"""`dnntrain diff RUN RUN`: what differs between two runs, and the step where they part."""

from __future__ import annotations

import json

from dnntrain.cli.parser import Arguments
from dnntrain.utils.json_files import to_strict_json


def run(arguments: Arguments) -> int:
    """Print the differences as lines, or as one JSON object."""
    from dnntrain.diff.run_diff import check_different, diff_runs, format_diff
    from dnntrain.inference.run_args import get_run_path

    first, second = map(get_run_path, arguments.positional)
    check_different((first, second))
    options = arguments.options
    diff = diff_runs((first, second), replay=options["replay"], max_steps=options["steps"], trust=options["trust"])
    if arguments.json:
        print(json.dumps({"a": str(first), "b": str(second), **to_strict_json(diff.as_json())}))
    else:
        print("\n".join(format_diff(diff, (first, second))))
    return 0
