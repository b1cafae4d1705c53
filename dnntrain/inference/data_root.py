"""Keep the place of the data out of exports, which are given to others, and find it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.config.saved_config import CONFIG_NAME, read_saved_config
from dnntrain.errors import CheckpointError, ConfigError

#: The options of data sets that name a folder or a file.
_PLACES = ("root", "file", "test_file")


def remove_data_root(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an export without the place of its data."""
    data = config["data"]
    return {**config, "data": {**data, **{key: None for key in _PLACES if key in data}}}


def restore_data_root(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the configuration of the export `path` with the place of the data of the run that it is in.

    Elsewhere the place stays unset: `data.root=`, `data.file=` or $DNNTRAIN_DATA names it.
    """
    data = config["data"]
    places = [key for key in _PLACES if key in data]
    if not places or any(data[key] is not None for key in places):
        return config
    for run in list(path.absolute().parents)[:3]:
        if (run / CONFIG_NAME).is_file() and (run / "exports" in path.absolute().parents):
            try:
                saved = read_saved_config(run)["data"]
            except (ConfigError, CheckpointError):
                return config
            if saved.get("name") == data.get("name"):
                return {**config, "data": {**data, **{key: saved.get(key) for key in places}}}
    return config
