"""`dnntrain plan`: prints what would run, and trains nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Prints the plan as a table, or as JSON; of several ranks also what each kind holds and sends, and how long a step takes."""
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    config = decode_config(compose(arguments.overrides, arguments.config_dir))
    session = open_session(drop_init_weights_if_resuming(config), World.from_environ(), plan_only=True)
    plan, estimate = session.plan, None
    if plan.ranks > 1:
        from dnntrain.run.layout_estimate import estimate_layout

        estimate = estimate_layout(session)
    if estimate is not None:
        plan = replace(plan, memory=estimate.refine_memory(plan.memory))
    if arguments.json:
        estimate_json = None if estimate is None else estimate.as_json()
        json.dump({**plan.as_json(), "foresight": estimate_json}, sys.stdout, indent=1)
        print()
    else:
        print(format_table([*plan.format_rows(), *(estimate.format_rows() if estimate else [])]))
    return 0


def format_table(rows: Sequence[tuple[str, str]]) -> str:
    """The (label, text) rows of a plan as aligned lines, wrapped to the width of the terminal."""
    import shutil
    import textwrap

    width = max(40, min(shutil.get_terminal_size().columns, 100))
    lines = []
    for label, text in rows:
        text_lines = textwrap.wrap(text, width - 15) or [""]
        lines += [f"{label if number == 0 else '':<14} {line}" for number, line in enumerate(text_lines)]
    return "\n".join(lines)
