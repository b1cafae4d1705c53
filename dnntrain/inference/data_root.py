"""Keep the places of files of the training out of exports, which are given to others, and find the files again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.config.paths import is_path
from dnntrain.config.registry import load_registry
from dnntrain.config.saved_config import CONFIG_NAME, read_saved_config
from dnntrain.errors import CheckpointError, ConfigError


def remove_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an export without the place of its data, and without files of its task."""
    task, data = config["task"], config["data"]
    defaults = {key: default for key, default in _list_places(config, "task").items() if is_path(task[key])}
    return {**config, "task": {**task, **defaults}, "data": {**data, **dict.fromkeys(_list_places(config, "data"))}}


def _list_places(config: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the options of a group that name a folder or a file, with their defaults.

    There are none if the plug-in of the choice is not installed.
    """
    try:
        schema = load_registry().get_choice(group, str(config.get("choices", {}).get(group))).schema
    except ConfigError:
        return {}
    keys = schema.constants.get("place_options", ())
    return {key: schema.fields[key].default for key in keys if key in config[group]}


def restore_data_root(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the configuration of the export `path` with the place of the data of the run that it is in.

    Elsewhere the place stays unset: `data.root=`, `data.file=`, `data.path=` or $DNNTRAIN_DATA names it.
    """
    data = config["data"]
    places = _list_places(config, "data")
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
