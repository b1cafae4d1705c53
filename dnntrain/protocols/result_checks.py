"""Check the values that the user's own choices return.

A choice of a plug-in may return anything. A wrong value would fail later, in code that is not the
user's. So the methods of choices outside of dnntrain are wrapped when their class is made, and the
functions in the hooks that they return: a wrong value is then reported with the file and the line
of the function. The code of dnntrain's own choices runs unwrapped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dnntrain.utils.user_code import describe_value, make_result_error

_SOURCE_MEMBERS = ("labels", "failures", "__len__", "read", "get_resident_inputs", "describe")

#: Returns the problem of a result, to follow the name of its function, or None.
Check = Callable[[Any], str | None]

#: Returns the value to use in place of a result, given the function that returned it.
Convert = Callable[[Any, Callable[..., Any]], Any]


@dataclass(frozen=True)
class CheckedFunction:
    """A function of the user whose results are checked. It can be pickled if the function can."""

    function: Callable[..., Any]
    check: Check

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.function(*args, **kwargs)
        if problem := self.check(result):
            raise make_result_error(problem, self.function)
        return result


def check_methods(cls: type, checks: Mapping[str, Check], converts: Mapping[Check, Convert]) -> None:
    """Wrap the methods and properties that the class `cls` defines and that `checks` names.

    `converts` changes a result that has passed its check.
    Classes of dnntrain itself are left as they are.
    """
    if is_builtin(cls):
        return
    for name, check in checks.items():
        member = cls.__dict__.get(name)
        if isinstance(member, property) and member.fget is not None:
            setattr(cls, name, property(_wrap(member.fget, check)))
        elif callable(member):
            setattr(cls, name, _wrap(member, check, converts.get(check)))


def is_builtin(cls: type) -> bool:
    """Return whether the class `cls` is one of dnntrain itself."""
    return cls.__module__.partition(".")[0] == "dnntrain"


def _wrap(function: Callable[..., Any], check: Check, convert: Convert | None = None) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if problem := check(result):
            raise make_result_error(problem, function)
        return result if convert is None else convert(result, function)

    return call


def returns(kinds: type | tuple[type, ...], needed: str) -> Check:
    """Return the check for an instance of `kinds`; `needed` describes it."""

    def check(value: Any) -> str | None:
        return None if isinstance(value, kinds) else _deny(needed, value)

    return check


def returns_named(name: str, needed: str, members: tuple[str, ...] = (), *, or_none: bool = False) -> Check:
    """Return the check for an instance of the class called `name`, or of any class with `members`.

    The class is given by its name, because it may be defined in a package above this one.
    """

    def check(value: Any) -> str | None:
        if value is None and or_none:
            return None
        is_instance = any(kind.__name__ == name for kind in type(value).__mro__)
        has_members = bool(members) and all(member in dir(value) for member in members)
        return None if is_instance or has_members else _deny(needed, value)

    return check


def returns_tensor(value: Any) -> str | None:
    """Check that the result is a tensor."""
    import torch

    return None if isinstance(value, torch.Tensor) else _deny("a tensor", value)


def returns_tensor_or_none(value: Any) -> str | None:
    """Check that the result is a tensor or None."""
    return None if value is None else returns_tensor(value)


def returns_image_bytes(value: Any) -> str | None:
    """Check that the result is a tensor of bytes, [n, channels, height, width]."""
    import torch

    if isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.ndim == 4:
        return None
    return _deny("a uint8 tensor [n, channels, height, width]", value)


def returns_row_per_example(value: Any) -> str | None:
    """Check that the result is a tensor with one axis or more: [n]."""
    import torch

    if isinstance(value, torch.Tensor) and value.ndim == 1:
        return None
    return _deny("a tensor [n], one number for each example", value)


def returns_module(value: Any) -> str | None:
    """Check that the result is a torch.nn.Module."""
    from torch import nn

    return None if isinstance(value, nn.Module) else _deny("a torch.nn.Module", value)


def returns_optimizers(value: Any) -> str | None:
    """Check that the result is a tuple of optimizers whose groups name their parameters."""
    import torch

    if not (
        isinstance(value, (tuple, list)) and value and all(isinstance(item, torch.optim.Optimizer) for item in value)
    ):
        return _deny("a tuple of optimizers, such as (torch.optim.SGD(…),)", value)
    for optimizer in value:
        if any(
            "lr" not in group or len(group.get("param_names", ())) != len(group["params"])
            for group in optimizer.param_groups
        ):
            return (
                f"must build {type(optimizer).__name__} over named parameters with a rate lr: pass "
                "model.named_parameters() or the groups of make_param_groups"
            )
    return None


def returns_dataset(value: Any) -> str | None:
    """Check that the result has the fields of a DataSet, with two sources of labeled examples."""
    if any(name not in dir(value) for name in ("train", "test", "inputs", "targets", "digest")):
        return _deny("a DataSet", value)
    for split in ("train", "test"):
        source = getattr(value, split)
        missing_names = [name for name in _SOURCE_MEMBERS if name not in dir(source)]
        if missing_names:
            return f"must return a DataSet whose {split} is a Source; it lacks {', '.join(missing_names)}"
    return None


def returns_text(value: Any) -> str | None:
    """Check that the result is a text."""
    return None if isinstance(value, str) else _deny("a text", value)


def returns_number(value: Any) -> str | None:
    """Check that the result is a number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_number else _deny("a number", value)


def returns_whole_number(value: Any) -> str | None:
    """Check that the result is a whole number of 1 or more."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return None if is_number else _deny("a whole number of 1 or more", value)


def returns_set(value: Any) -> str | None:
    """Check that the result is a frozen set."""
    return None if isinstance(value, (frozenset, set)) else _deny("a frozenset, such as frozenset({…})", value)


def returns_iterable(value: Any) -> str | None:
    """Check that the result can be iterated, and is not a text."""
    return None if isinstance(value, Iterable) and not isinstance(value, str) else _deny("an iterable", value)


def returns_mapping(value: Any) -> str | None:
    """Check that the result is a mapping."""
    return None if isinstance(value, Mapping) else _deny("a mapping", value)


def returns_mapping_or_none(value: Any) -> str | None:
    """Check that the result is a mapping or None."""
    return None if value is None else returns_mapping(value)


def _deny(needed: str, value: Any) -> str:
    return f"must return {needed}, not {describe_value(value)}"
