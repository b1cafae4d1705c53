"""Keep the place of the data out of exports, which are given to others, and find it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.config.registry import load_registry
from dnntrain.config.saved_config import CONFIG_NAME, read_saved_config
from dnntrain.errors import CheckpointError, ConfigError


def remove_data_root(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an export without the place of its data."""
    data = config["data"]
    return {**config, "data": {**data, **dict.fromkeys(_list_places(config))}}


def _list_places(config: Mapping[str, Any]) -> list[str]:
    """Return the options of the data set that name a folder or a file; none if its plug-in is not installed."""
    try:
        schema = load_registry().get_choice("data", str(config.get("choices", {}).get("data"))).schema
    except ConfigError:
        return []
    return [key for key in schema.constants.get("place_options", ()) if key in config["data"]]


def restore_data_root(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the configuration of the export `path` with the place of the data of the run that it is in.

    Elsewhere the place stays unset: `data.root=`, `data.file=`, `data.path=` or $DNNTRAIN_DATA names it.
    """
    data = config["data"]
    places = _list_places(config)
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
