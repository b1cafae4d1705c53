"""Decode the specification of a model from JSON that may be damaged or hostile."""

from __future__ import annotations

import math
from typing import Any

from dnntrain.protocols import InputSpec, ModelSpec, OutputSpec, TargetKind, TargetSpec

#: Largest size of an axis, and largest number of values of an image or an output.
_MAX_SIZE, _MAX_VALUES = 2**20, 2**28


def decode_model_spec(
    *, input_shape: Any, mean: Any, std: Any, names: Any, targets: Any, output_name: Any, output_shape: Any
) -> ModelSpec:
    """Return the specification in plain JSON values.

    Raises ValueError, which names the value, if one has the wrong type, length or range.
    """
    shape = _decode_sizes("the input size", input_shape, length=3)
    name_list = _check_list("the class names", names)
    if not all(isinstance(name, str) for name in name_list):
        raise ValueError("the class names must be texts")
    kinds = {kind.name.lower(): kind for kind in TargetKind}
    if not isinstance(targets, str) or targets not in kinds:
        raise ValueError(f"targets must be one of {', '.join(kinds)}, not {_shorten(targets)}")
    if not isinstance(output_name, str):
        raise ValueError(f"the name of the output must be a text, not {_shorten(output_name)}")
    return ModelSpec(
        InputSpec(
            (shape[0], shape[1], shape[2]),
            _decode_numbers("mean", mean, shape[0]),
            _decode_numbers("std", std, shape[0], is_positive=True),
        ),
        TargetSpec(tuple(name_list), kinds[targets]),
        OutputSpec(tuple(name_list), _decode_sizes("the output's shape", output_shape), output_name),
    )


def _decode_sizes(subject: str, value: Any, length: int | None = None) -> tuple[int, ...]:
    sizes = _check_list(subject, value, length)
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _MAX_SIZE:
            raise ValueError(f"{subject} must be whole numbers from 1 to {_MAX_SIZE}, not {_shorten(size)}")
    if math.prod(sizes) > _MAX_VALUES:
        raise ValueError(f"{subject} must be at most {_MAX_VALUES} values")
    return tuple(sizes)


def _decode_numbers(subject: str, value: Any, length: int, is_positive: bool = False) -> tuple[float, ...]:
    numbers = _check_list(subject, value, length)
    for number in numbers:
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= 1e30
        if not is_number or (is_positive and number <= 0):
            needed = "numbers above 0" if is_positive else "numbers"
            raise ValueError(f"{subject} must be finite {needed}, not {_shorten(number)}")
    return tuple(float(number) for number in numbers)


def _check_list(subject: str, value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{subject} must be a list, not {_shorten(value)}")
    if length is not None and len(value) != length:
        raise ValueError(f"{subject} must be a list of {length}, not of {len(value)}")
    return list(value)


def _shorten(value: Any) -> str:
    """Return a value for a message; a long or deeply nested one is described by its type."""
    if isinstance(value, (bool, float)) or value is None or (isinstance(value, int) and abs(value) < 10**30):
        return str(value)
    if isinstance(value, str):
        return repr(value[:40])
    return f"a value of type {type(value).__name__}"
