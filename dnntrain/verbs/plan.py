"""`dnntrain plan`: prints what would run, and trains nothing."""

from __future__ import annotations

import json
import sys

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode
from dnntrain.planner import Plan
from dnntrain.verbs.arguments import Arguments
from dnntrain.world import World


def run(arguments: Arguments) -> int:
    """Prints the plan as a table, or as JSON."""
    from dnntrain.session import open_session

    config = decode(compose(arguments.overrides, arguments.config_dir))
    plan = open_session(config, World.from_environ()).plan
    if arguments.json:
        json.dump(plan.as_json(), sys.stdout, indent=1)
        print()
    else:
        print(table(plan))
    return 0


def table(plan: Plan) -> str:
    """The plan as aligned lines, wrapped to the width of the terminal."""
    import shutil
    import textwrap

    width = max(40, min(shutil.get_terminal_size().columns, 100))
    lines = []
    for label, text in plan.lines():
        wrapped = textwrap.wrap(text, width - 15) or [""]
        lines += [f"{label if number == 0 else '':<14} {line}" for number, line in enumerate(wrapped)]
    return "\n".join(lines)
