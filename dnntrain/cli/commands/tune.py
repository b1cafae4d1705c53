"""`dnntrain tune lr|batch|speed [overrides]`: find the learning rate, the batch size or better settings for a run.

It changes nothing. The line to use next is on stdout, the measurements are on stderr.
"""

from __future__ import annotations

import sys

from dnntrain.cli.command_table import COMMANDS
from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.planning.checks.early import decode_new_run
from dnntrain.tune.search import check_bounds, tune
from dnntrain.tune.speed_line import check_speed_line
from dnntrain.tune.summary import format_result
from dnntrain.utils.json_files import format_json
from dnntrain.utils.world import World, check_single_process


def run(arguments: Arguments) -> int:
    """Print the line to use next or, with --json, everything that was measured."""
    target = arguments.positional[0]
    own_options = [option.key for option in COMMANDS["tune"].options if option.operand == target]
    options = {key: arguments.options[key] for key in own_options}
    if target == "speed":
        return _tune_speed(arguments)
    check_bounds(options)
    world = World.from_environ()
    overrides = add_rank_layout(arguments.overrides, arguments.config_dir, world)
    config = decode_new_run(compose(overrides, arguments.config_dir), world)
    result = tune(target, config, options, world)
    if not world.is_main:
        return 0
    if not arguments.quiet and not arguments.json:
        print(format_result(target, result), file=sys.stderr)
    print(format_json(result) if arguments.json else result["line"])
    return 0


def _tune_speed(arguments: Arguments) -> int:
    """Print the settings that serve the goal best; with --json all evidence."""
    check_single_process("tune speed", starts_ranks=True)
    options = arguments.options
    goal, config = check_speed_line(arguments.overrides, arguments.config_dir, options)
    from dnntrain.tune.speed_answer import answer_line

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr)

    tuned = answer_line(config, goal, arguments.overrides, arguments.config_dir, options, say)
    print(format_json(dict(tuned.evidence)) if arguments.json else " ".join(tuned.words))
    return 0
