"""Overrides → plain containers: the only place where Hydra composes.

The words are checked first (`precheck.py`), so that Hydra meets no mistake; what it returns is resolved, freed of its
own `hydra` key, completed by `choices`, and checked again value by value (`decode.py`). The caller's own Hydra state
is left as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnntrain.config.choice_selection import Layer, choices_of
from dnntrain.config.decode import decode_schema_only
from dnntrain.config.groups import GROUPS, LISTS
from dnntrain.config.paths import with_whole_paths
from dnntrain.config.validate import Checked, precheck
from dnntrain.errors import ConfigError


def compose(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None, *, quiet: bool = False
) -> dict[str, Any]:
    """The resolved configuration that `overrides` describe, as plain containers: what is written to config.yaml. Paths are whole.

    `config_dir` is searched for presets and experiments besides dnntrain's own. Raises ConfigError that lists every
    mistake. Notes (values of an experiment that fall away with the choice they were for) go to stderr unless `quiet`.
    """
    checked = precheck(overrides, None if config_dir is None else Path(config_dir))
    if not quiet:
        for note in checked.notes:
            print(f"note: {note}", file=sys.stderr)
    return with_whole_paths(decode_schema_only(_resolved(_as_chosen(_composed(checked), checked)), checked.registry))


def _composed(checked: Checked) -> dict[str, Any]:
    """Hydra's composition, interpolations unresolved."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folders = [str(source.conf) for source in checked.registry.sources[1:] if source.conf.is_dir()]
    quoted = ["'file://" + folder.replace("\\", "\\\\").replace("'", "\\'") + "'" for folder in folders]
    search = [f"hydra.searchpath=[{','.join(quoted)}]"] if folders else []
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(checked.registry.root.parent), job_name="dnntrain", version_base="1.3"):
            composed = hydra_compose(checked.registry.root.stem, [*search, *checked.overrides])
        container = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration cannot be composed: {_first_line(error)}") from None
    finally:
        GlobalHydra.instance().hydra = outer
    assert isinstance(container, dict)
    container.pop("hydra", None)
    return {str(key): value for key, value in container.items()}


def _as_chosen(container: dict[str, Any], checked: Checked) -> dict[str, Any]:
    """The container with `choices`, and without the values of an overlay whose choice was replaced after it."""
    selection = checked.selection
    for layer in selection.layers:
        for group, values in layer.file.values.items():
            if group not in GROUPS or not isinstance(values, dict):
                continue
            if group in LISTS:
                for name in values:
                    if not selection.intended(layer, group, name):
                        _replace(container[group], name, f"{group}.{name}", checked)
            elif not selection.intended(layer, group, None):
                _replace(container, group, group, checked)
    return {**container, "choices": choices_of(selection.picks)}


def _replace(container: dict[str, Any], name: str, key: str, checked: Checked) -> None:
    """Sets `container[name]` to what the choice at `key`, overlays meant for it and the command line say."""
    choice = checked.selection.keyed.get(key)
    if choice is None:
        container.pop(name, None)
        return
    values = choice.values()
    for layer in checked.selection.layers:
        if checked.selection.intended(layer, choice.group, choice.base):
            values.update(_values_of(layer, key))
    for setting in checked.settings:
        if setting.key.startswith(f"{key}."):
            values[setting.keys[-1]] = setting.value
    container[name] = values


def _values_of(layer: Layer, key: str) -> dict[str, Any]:
    values: Any = layer.file.values
    for part in key.split("."):
        values = values.get(part) or {}
    return dict(values)


def _resolved(container: dict[str, Any]) -> dict[str, Any]:
    """Interpolations replaced by what they refer to.

    Raises ConfigError naming the key of a cycle or of a missing reference.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved = OmegaConf.to_container(OmegaConf.create(container), resolve=True)
    except RecursionError:
        raise ConfigError("interpolations refer to each other in a circle", _interpolations(container)) from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        if "recursive" in str(error).lower():
            raise ConfigError("interpolations refer to each other in a circle", _interpolations(container)) from None
        raise ConfigError(f"an interpolation cannot be resolved: {_first_line(error)}", _where(error)) from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _interpolations(container: dict[str, Any]) -> str:
    """The keys whose values hold interpolations."""
    from dnntrain.config.safety import has_interpolation
    from dnntrain.config.yaml_io import leaves

    found = [f"{'.'.join(keys)}: {value}" for keys, value in leaves(container) if has_interpolation(value)]
    return "look at " + ", ".join(found)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _where(error: BaseException) -> str:
    key = getattr(error, "full_key", None)
    return f"the key is {key}" if key else ""
