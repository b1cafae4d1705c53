"""Search for the learning rate or the batch size of a run, in a trainer that is thrown away.

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

#: Files by which the process that starts ranks and the ranks talk.
REQUEST_FILE, RESULT_FILE = "request.json", "result.json"


def check_bounds(options: Mapping[str, Any]) -> None:
    """Raise ConfigError if nothing lies between the two bounds of a search."""
    low, high = [value for name, value in options.items() if name != "steps"]
    if low >= high:
        raise ConfigError(f"nothing lies between {low:g} and {high:g}", "give the lower bound first")


def tune(target: str, config: RunConfig, options: Mapping[str, Any], world: World) -> dict[str, Any]:
    """What was found; the same on every rank. Starts torchrun where the layout wants several processes."""
    from dnntrain.run.session import open_session

    # Ranks that watch over each other need a folder; it is no run directory, and goes.
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
    """The same as one of several ranks, with the main rank's configuration."""
    from dnntrain.run.rank_group import join_rank_group
    from dnntrain.run.session import open_session

    with join_rank_group(make_config, world) as (config, _):
        return _tune_session(open_session(config, world), target, options)


def _with_run_dir(config: RunConfig, folder_name: str) -> RunConfig:
    return decode_config({**config.resolved, "run_dir": folder_name})


def _tune_session(session: Session, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from dnntrain.tune.batch_size import find_batch_size
    from dnntrain.tune.lr_range import run_range_test

    search: Callable[..., dict[str, Any]] = {"lr": run_range_test, "batch": find_batch_size}[target]
    return search(session, **options)


def _launch_ranks(session: Session, folder: Path, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same in as many processes as the layout wants; they speak to this one through `folder`."""
    from dnntrain.run.torchrun import run_module_on_ranks
    from dnntrain.utils.files import read_json

    request = {
        "target": target,
        "options": dict(options),
        "config": {**session.config.resolved, "run_dir": str(folder)},
    }
    (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")
    run_module_on_ranks(session, folder, "dnntrain.tune.worker")
    return read_json(folder / RESULT_FILE)
