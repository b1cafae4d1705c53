"""Compose overrides into plain containers; only this module calls Hydra.

`validate.py` checks the overrides first, so that Hydra receives no mistake. The result is then
resolved, stripped of the `hydra` key, completed with `choices`, and checked value by value
(`decode.py`). The caller's own Hydra state does not change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnntrain.config.choice_selection import get_choice_names
from dnntrain.config.convert import MISSING, to_plain
from dnntrain.config.decode import decode_to_plain
from dnntrain.config.groups import GROUPS, LISTS, SINGLE
from dnntrain.config.paths import make_paths_absolute
from dnntrain.config.registry import load_registry
from dnntrain.config.saved_values import apply_saved_values, find_saved_picks
from dnntrain.config.schema import REQUIRED
from dnntrain.config.selection import Overlay, Selection
from dnntrain.config.validate import ValidCommandLine, validate_overrides
from dnntrain.config.yaml_io import iterate_leaves
from dnntrain.errors import ConfigError
from dnntrain.utils.messages import say_once


def compose(
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    *,
    saved: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Return the resolved configuration as plain containers with absolute paths.

    The result is the content of config.yaml. `config_dir` is searched for presets and experiments
    besides dnntrain's own. `saved` is the configuration of a run, or the part of it that an export
    keeps: its values take the place of the defaults, so that today's YAML files do not change a
    saved run. Raises ConfigError that lists every mistake. Notes go to stderr unless `quiet`; they
    name the values of an experiment that are dropped with their choice.
    """
    folder = None if config_dir is None else Path(config_dir)
    saved_picks = None if saved is None else find_saved_picks(saved, load_registry(folder))
    valid_line = validate_overrides(overrides, folder, saved_picks)
    if not quiet:
        for note in valid_line.notes:
            say_once(f"note: {note}")
    container = compose_unresolved(valid_line)
    if saved is not None and saved_picks is not None:
        container = apply_saved_values(container, saved, saved_picks, valid_line)
    return resolve(container, valid_line)


def compose_unresolved(valid_line: ValidCommandLine) -> dict[str, Any]:
    """Return the values of a line, with its interpolations as text."""
    container = _drop_replaced_overlay_values(_compose_with_hydra(valid_line), valid_line)
    return _add_default_values(container, valid_line.selection)


def resolve(container: dict[str, Any], valid_line: ValidCommandLine) -> dict[str, Any]:
    """Return the values of a line as `compose` does, from those with interpolations."""
    resolved = _resolve_interpolations(container)
    return make_paths_absolute(decode_to_plain(resolved, valid_line.registry, _find_interpolated_keys(container)))


def _compose_with_hydra(valid_line: ValidCommandLine) -> dict[str, Any]:
    """Return Hydra's composition with unresolved interpolations."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    extra_folders = [str(source.conf) for source in valid_line.registry.sources[1:] if source.conf.is_dir()]
    search_entries = ["'file://" + folder.replace("\\", "\\\\").replace("'", "\\'") + "'" for folder in extra_folders]
    search_overrides = [f"hydra.searchpath=[{','.join(search_entries)}]"] if extra_folders else []
    outer_hydra, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(valid_line.registry.root.parent), job_name="dnntrain", version_base="1.3"):
            hydra_config = hydra_compose(
                valid_line.registry.root.stem, [*search_overrides, *valid_line.hydra_overrides]
            )
        container = OmegaConf.to_container(hydra_config, resolve=False)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration cannot be composed: {_get_first_line(error)}") from None
    finally:
        GlobalHydra.instance().hydra = outer_hydra
    assert isinstance(container, dict)
    container.pop("hydra", None)
    return {str(key): value for key, value in container.items()}


def _drop_replaced_overlay_values(container: dict[str, Any], valid_line: ValidCommandLine) -> dict[str, Any]:
    """Return the container with `choices`, without values of replaced choices.

    An overlay's values for a choice are dropped if another choice replaced that choice after the
    overlay.
    """
    selection = valid_line.selection
    for layer in selection.overlays:
        for group, values in layer.file.values.items():
            if group not in GROUPS or not isinstance(values, dict):
                continue
            if group in LISTS:
                for name in values:
                    if not selection.is_in_force(layer, group, name):
                        _replace_choice_values(container[group], name, f"{group}.{name}", valid_line)
            elif not selection.is_in_force(layer, group, None):
                _replace_choice_values(container, group, group, valid_line)
    return {**container, "choices": get_choice_names(selection.picks), "labels": _get_run_labels(container, selection)}


def _add_default_values(container: dict[str, Any], selection: Selection) -> dict[str, Any]:
    """Return the container with defaults for the keys that a choice's YAML leaves out."""
    for key, choice in selection.choice_by_key.items():
        group, _, name = key.partition(".")
        holder = container if not name else container[group]
        values = holder.get(name or group) or {}
        defaults = {
            option: MISSING if field_schema.default is REQUIRED else to_plain(field_schema.default)
            for option, field_schema in choice.schema.fields.items()
            if option not in values
        }
        holder[name or group] = {**values, **defaults}
    return container


def _get_run_labels(container: Mapping[str, Any], selection: Selection) -> dict[str, str]:
    """Return the labels that name a run.

    A label is the choice of a group, or the last part of the value at its `label_key`.
    """
    from dnntrain.config.safety import has_interpolation

    labels: dict[str, str] = {}
    for group in SINGLE:
        choice = selection.choice_by_key.get(group)
        if choice is None:
            continue
        value = container[group].get(choice.schema.label_key) if choice.schema.label_key else None
        usable = isinstance(value, str) and not has_interpolation(value)
        label = re.sub(r"[^\w.+@=, -]", "-", Path(str(value)).absolute().name).lstrip("_.+@=, -") if usable else ""
        labels[group] = label[:48] or choice.name
    return labels


def _replace_choice_values(container: dict[str, Any], name: str, key: str, valid_line: ValidCommandLine) -> None:
    """Set `container[name]` to the values for the choice at `key`.

    The values come from the choice itself, the overlays meant for it and the command line.
    """
    choice = valid_line.selection.choice_by_key.get(key)
    if choice is None:
        container.pop(name, None)
        return
    values = choice.read_values()
    for layer in valid_line.selection.overlays:
        if valid_line.selection.is_in_force(layer, choice.group, choice.base):
            values.update(_get_layer_values(layer, key))
    for setting in valid_line.overrides:
        if setting.key.startswith(f"{key}."):
            _set_value(values, setting.keys[key.count(".") + 1 :], setting.value)
    container[name] = values


def _set_value(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set the value at `keys`, below the arguments of the user's code too: `args.width`."""
    first, *rest = keys
    if not rest:
        values[first] = value
        return
    values[first] = dict(values.get(first) or {})
    _set_value(values[first], rest, value)


def _get_layer_values(layer: Overlay, key: str) -> dict[str, Any]:
    values: Any = layer.file.values
    for key_part in key.split("."):
        values = values.get(key_part) or {}
    return dict(values)


def _resolve_interpolations(container: dict[str, Any]) -> dict[str, Any]:
    """Return the container with resolved interpolations.

    Raises ConfigError that names the key of a cycle or of a missing reference.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved = OmegaConf.to_container(OmegaConf.create(container), resolve=True)
    except RecursionError:
        raise ConfigError("interpolations refer to each other in a circle", _list_interpolations(container)) from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        if "recursive" in str(error).lower():
            raise ConfigError(
                "interpolations refer to each other in a circle", _list_interpolations(container)
            ) from None
        raise ConfigError(
            f"an interpolation cannot be resolved: {_get_first_line(error)}", _describe_error_key(error)
        ) from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items() if key != "labels"}


def _find_interpolated_keys(container: dict[str, Any]) -> set[str]:
    """Return the keys whose values hold interpolations."""
    from dnntrain.config.safety import has_interpolation

    leaves = iterate_leaves(container)
    return {".".join(keys) for keys, value in leaves if has_interpolation(value)}


def _list_interpolations(container: dict[str, Any]) -> str:
    """Return a hint with the keys whose values hold interpolations."""
    from dnntrain.config.safety import has_interpolation

    interpolations = [
        f"{'.'.join(keys)}: {value}" for keys, value in iterate_leaves(container) if has_interpolation(value)
    ]
    return "look at " + ", ".join(interpolations)


def _get_first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _describe_error_key(error: BaseException) -> str:
    key = getattr(error, "full_key", None)
    return f"the key is {key}" if key else ""
