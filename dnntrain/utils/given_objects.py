"""Keep the objects that a call from Python gives to a run, while it runs.

A configuration is data, so it cannot hold them: it says `from_python: true`, and a call that resumes
or evaluates such a run gives the objects again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dnntrain.errors import ConfigError

#: The objects by the group of the choice that uses them: "model", "data".
_objects: dict[str, Any] = {}


@contextmanager
def give_objects(objects: Mapping[str, Any]) -> Iterator[None]:
    """Offer the objects to the choices of their groups within the block."""
    previous = dict(_objects)
    _objects.update(objects)
    try:
        yield
    finally:
        _objects.clear()
        _objects.update(previous)


def take_objects(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a call with `from_python: true` in the place of objects, and the objects by group."""
    result, objects = dict(settings), {}
    model, data = settings.get("model"), settings.get("data")
    if _is_module(model):
        objects["model"] = model
        result |= {"model": "custom", "model.from_python": True}
    if isinstance(data, tuple | list) and data and not isinstance(data[0], str):
        objects["data"] = data
        result |= {"data": "custom", "data.from_python": True}
        if _has_rows(data[0]):
            result = {**result, "data.inputs": "rows"}
            result.setdefault("augment", [])
    return result, objects


def select_objects(model: Any, data: Any) -> dict[str, Any]:
    """Return those of the two objects that are given, by group."""
    return {group: value for group, value in (("model", model), ("data", data)) if value is not None}


def _is_module(value: Any) -> bool:
    """Return whether `value` is a torch.nn.Module, without importing torch, which such an object has done."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _has_rows(split: Any) -> bool:
    """Return whether the first input of a split has one dimension."""
    try:
        first = split[0][0]
    except (LookupError, TypeError):
        return False
    return len(getattr(first, "shape", (0, 0))) == 1


def has_objects() -> bool:
    """Return whether a call from Python has given objects."""
    return bool(_objects)


def get_object(group: str) -> Any:
    """Return the object of `group`. Raises ConfigError if no call has given it."""
    if group not in _objects:
        raise ConfigError(
            f"{group}.from_python=true: the run uses an object that a call from Python gave",
            f"give it again: dnntrain.train({group}=…), load(run, {group}=…) or evaluate(run, {group}=…); "
            f"or write it to a file and use {group}=custom {group}.file=FILE",
        )
    return _objects[group]
