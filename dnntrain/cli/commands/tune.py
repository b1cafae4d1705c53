"""`dnntrain tune lr|batch|speed [overrides]`: find the learning rate, the batch size or faster settings for a run.

It changes nothing. The line to use next is on stdout, the measurements are on stderr.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from dnntrain.cli.command_table import COMMANDS
from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config, decode_light_config
from dnntrain.config.rank_layout import add_rank_layout
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.planning.checks.early import check_new_run, decode_new_run
from dnntrain.tune.goal import LATENCY, Goal, check_goal_kind, parse_goal
from dnntrain.tune.search import check_bounds, tune
from dnntrain.tune.summary import format_result
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig


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
    print(json.dumps(result) if arguments.json else result["line"])
    return 0


def _tune_speed(arguments: Arguments) -> int:
    """Print the settings that serve the goal best; with --json all evidence."""
    options = arguments.options
    goal, config = _check_speed_line(arguments)
    from dnntrain.protocols.speed import SpeedGrade
    from dnntrain.run.session import open_session
    from dnntrain.tune.speed import SpeedRequest
    from dnntrain.tune.speed_answer import answer_speed

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr)

    request = SpeedRequest(
        tuple(arguments.overrides),
        arguments.config_dir,
        goal,
        options["budget"],
        SpeedGrade(options["allow"]),
        options["max_slowdown"],
        tuple(sorted(set(options["batches"]))),
    )
    tuned = answer_speed(open_session(config, World()), request, use_cache=options["cache"], say=say)
    if options["path"] is not None:
        tuned.write(options["path"])
        say(f"with the evidence in {options['path']}; use it with tuned={options['path']}")
    print(json.dumps(dict(tuned.evidence)) if arguments.json else " ".join(tuned.words))
    return 0


def _check_speed_line(arguments: Arguments) -> tuple[Goal, RunConfig]:
    """Return goal and configuration. Raises the mistakes of options and settings together."""
    text, options, errors = arguments.options["goal"], arguments.options, list[DnntrainError]()
    container: dict[str, Any] | None = None
    try:
        container = compose(arguments.overrides, arguments.config_dir)
        check_new_run(container, World())
    except DnntrainError as error:
        errors.append(error)
    goal = Goal()
    try:
        check_goal_kind(text)
        if container is not None:
            light = decode_light_config(container)[0]
            goal = parse_goal(text, light.task.list_infos(), light.eval.metric)
    except ConfigError as error:
        errors.append(error)
    if text == LATENCY and options["path"] is not None:
        errors.append(ConfigError("--path does not support --goal latency: tuned= is for training", "use --json"))
    if text == LATENCY and options["allow"] == "bitwise":
        errors.append(
            ConfigError("--allow bitwise does not support --goal latency: exports round", "use --allow rounding")
        )
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError.from_mistakes([str(error) for error in errors])
    assert container is not None
    return goal, decode_config(container)
