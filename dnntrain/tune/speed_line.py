"""Check a line of `dnntrain tune speed` before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config, decode_light_config
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.planning.checks.early import check_new_run
from dnntrain.tune.goal import LATENCY, THROUGHPUT, Goal, check_goal_kind, parse_goal
from dnntrain.utils.output_file import check_output_file
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig


def check_speed_line(
    overrides: Sequence[str], config_dir: Path | None, options: Mapping[str, Any]
) -> tuple[Goal, RunConfig]:
    """Return goal and configuration. Raises the mistakes of options and settings together."""
    text, errors = options["goal"], list[DnntrainError]()
    container: dict[str, Any] | None = None
    try:
        container = compose(overrides, config_dir)
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
    if options["path"] is not None:
        try:
            check_output_file("path", options["path"], "tuned.yaml")
        except ConfigError as error:
            errors.append(error)
    if text == LATENCY and options["path"] is not None:
        errors.append(ConfigError("--path does not support --goal latency: tuned= is for training", "use --json"))
    if text == LATENCY and options["allow"] == "bitwise":
        errors.append(
            ConfigError("--allow bitwise does not support --goal latency: exports round", "use --allow rounding")
        )
    if options["margin"] is not None and goal.kind != THROUGHPUT:
        errors.append(ConfigError(f"--margin does not support --goal {goal.kind}", "use --goal throughput"))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError.from_mistakes([str(error) for error in errors])
    assert container is not None
    return goal, decode_config(container)
