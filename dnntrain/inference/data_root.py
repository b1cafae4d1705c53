"""Keep the place of the data out of exports, which are given to others, and find it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.config.saved_config import CONFIG_NAME, read_saved_config
from dnntrain.errors import CheckpointError, ConfigError


def remove_data_root(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an export without the folder of its data."""
    data = config["data"]
    return {**config, "data": {**data, "root": None} if "root" in data else data}


def restore_data_root(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the configuration of the export `path` with the folder of the data of the run that it is in.

    Elsewhere the folder stays unset: `data.root=` or $DNNTRAIN_DATA names it.
    """
    data = config["data"]
    if "root" not in data or data["root"] is not None:
        return config
    for run in list(path.absolute().parents)[:3]:
        if (run / CONFIG_NAME).is_file() and (run / "exports" in path.absolute().parents):
            try:
                saved = read_saved_config(run)["data"]
            except (ConfigError, CheckpointError):
                return config
            if saved.get("name") == data.get("name"):
                return {**config, "data": {**data, "root": saved.get("root")}}
    return config
