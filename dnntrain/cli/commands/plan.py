"""`dnntrain plan`: prints what would run, and trains nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Prints the plan as a table, or as JSON; of several ranks also what each kind holds and sends, and how long a step takes."""
    from dnntrain.run.session import as_it_goes_on, open_session

    config = decode(compose(arguments.overrides, arguments.config_dir))
    session = open_session(as_it_goes_on(config), World.from_environ(), planned=True)
    plan, foresight = session.plan, None
    if plan.ranks > 1:
        from dnntrain.run.layout_estimate import foresee

        foresight = foresee(session)
    if foresight is not None:
        plan = replace(plan, memory=foresight.of_largest(plan.memory))
    if arguments.json:
        foreseen = None if foresight is None else foresight.as_json()
        json.dump({**plan.as_json(), "foresight": foreseen}, sys.stdout, indent=1)
        print()
    else:
        print(table([*plan.lines(), *(foresight.lines() if foresight else [])]))
    return 0


def table(rows: Sequence[tuple[str, str]]) -> str:
    """The (label, text) rows of a plan as aligned lines, wrapped to the width of the terminal."""
    import shutil
    import textwrap

    width = max(40, min(shutil.get_terminal_size().columns, 100))
    lines = []
    for label, text in rows:
        wrapped = textwrap.wrap(text, width - 15) or [""]
        lines += [f"{label if number == 0 else '':<14} {line}" for number, line in enumerate(wrapped)]
    return "\n".join(lines)
