"""`dnntrain plan`: print the plan of a run, and train nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from dnntrain.cli.formatting import format_rows
from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.utils.downloads import forbid_downloads
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.world import World


def run(arguments: Arguments) -> int:
    """Print the plan as a table or as JSON.

    For several ranks it includes their memory, their traffic and the time of a step.
    """
    world = World.from_environ()
    composed = compose(arguments.overrides, arguments.config_dir)
    # A mistake in the line ends the command before these imports.
    from dnntrain.planning.checks.early import decode_new_run

    config = decode_new_run(composed, world, plan_only=True)
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    with forbid_downloads("dnntrain plan downloads nothing"):
        session = open_session(drop_init_weights_if_resuming(config), world, plan_only=True, tuned=arguments.tuned)
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
        load = describe_current_load()
        rows = [*plan.format_rows(), *(estimate.format_rows() if estimate else [])]
        print(format_rows([*rows, ("note", load)] if load else rows))
    return 0
