"""Plan every stage before the first one trains, so that a mistake of a late stage costs no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dnntrain.errors import ConfigError
from dnntrain.pipeline.stage_runs import StageRun, read_stage_status
from dnntrain.utils.units import pluralize


def check_stages(runs: Sequence[StageRun], say: Callable[[str], None]) -> None:
    """Plan the first run of each stage that is still to begin, without the models that it takes from others.

    Raises ConfigError that lists the mistakes of all, such as channels that cannot be removed.
    """
    from dnntrain.config.decode import decode_config
    from dnntrain.run.session import open_session
    from dnntrain.utils.world import World

    mistakes: list[str] = []
    waiting = [run for run in runs if not run.number and read_stage_status(run)[0] == "waiting"]
    if waiting:
        say(f"planning {pluralize(len(waiting), 'stage')}")
    for run in waiting:
        try:
            open_session(decode_config(_leave_out_inputs(run)), World(), plan_only=True)
        except ConfigError as error:
            mistakes += [f"stage {run.stage}: {text}" for text in error.mistakes]
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))


def _leave_out_inputs(run: StageRun) -> dict[str, Any]:
    """Return the settings of a run without initial weights and teacher, which may not exist yet."""
    from dnntrain.config.compose import compose

    config = {**run.config, "init_from": None}
    if "teacher" in run.inputs:
        plain = compose(["distill=none"], quiet=True)
        config |= {"distill": plain["distill"], "choices": {**config["choices"], "distill": "none"}}
    return config
