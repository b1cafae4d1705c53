"""Search for the learning rate or the batch size of a run, in a temporary trainer.

No run directory is made. A layout of several processes is started with torchrun, as for training.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.decode import decode_config
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.session import Session

#: Files that the parent process and the ranks exchange.
REQUEST_FILE, RESULT_FILE = "request.json", "result.json"


def check_bounds(options: Mapping[str, Any]) -> None:
    """Raise ConfigError if the lower bound of a search is not below the upper bound."""
    low, high = [value for name, value in options.items() if name != "steps"]
    if low >= high:
        raise ConfigError(
            f"the lower bound {low:g} must be less than the upper bound {high:g}", "exchange the two bounds"
        )


def tune(target: str, config: RunConfig, options: Mapping[str, Any], world: World) -> dict[str, Any]:
    """Run a search and return its result, the same on every rank.

    It starts torchrun if the layout needs several processes.
    """
    from dnntrain.run.session import open_session

    # Ranks that monitor each other need a folder. It is not a run directory and is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder_name:
        if world.size > 1:
            return tune_on_ranks(lambda: _with_run_dir(config, folder_name), world, target, options)
        session = open_session(config, world)
        return (
            _launch_ranks(session, Path(folder_name), target, options)
            if session.plan.ranks > 1
            else _tune_session(session, target, options)
        )


def tune_on_ranks(
    make_config: Callable[[], RunConfig], world: World, target: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Run a search as one of several ranks, with the main rank's configuration."""
    from dnntrain.run.join_ranks import join_rank_group
    from dnntrain.run.session import open_session

    with join_rank_group(make_config, world) as (config, _):
        return _tune_session(open_session(config, world), target, options)


def measure_on_ranks(session: Session, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Start the ranks of a run, let them measure, and return the main rank's result. Raises their error."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder_name:
        return _launch_ranks(session, Path(folder_name), target, options)


def _with_run_dir(config: RunConfig, folder_name: str) -> RunConfig:
    return decode_config({**config.resolved, "run_dir": folder_name})


def _tune_session(session: Session, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from dnntrain.tune.batch_size import find_batch_size
    from dnntrain.tune.lr_range import run_range_test
    from dnntrain.tune.memory_worker import measure_memory_on_ranks
    from dnntrain.tune.speed_worker import measure_probe
    from dnntrain.tune.step_time import measure_phases

    searches: dict[str, Callable[..., dict[str, Any]]] = {
        "lr": run_range_test,
        "batch": find_batch_size,
        "phases": measure_phases,
        "probe": measure_probe,
        "memory": measure_memory_on_ranks,
    }
    return searches[target](session, **options)


def _launch_ranks(session: Session, folder: Path, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run a search in as many processes as the layout needs.

    They exchange files with this process in `folder`.
    """
    from dnntrain.run.launcher import run_module_on_ranks
    from dnntrain.utils.json_files import read_json

    request = {
        "target": target,
        "options": dict(options),
        "config": {**session.config.resolved, "run_dir": str(folder)},
    }
    (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")
    run_module_on_ranks(session, folder, "dnntrain.tune.worker")
    return read_json(folder / RESULT_FILE)
