"""Parameters that a method adds to a layer, which no file of the plain network has."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class AddsParameters(Protocol):
    """A module with parameters that files of weights and newly built networks do not have."""

    added_parameters: ClassVar[tuple[str, ...]]


def count_added_parameters(model: nn.Module) -> int:
    """Return how many numbers the added parameters of `model` have."""
    return sum(model.get_parameter(name).numel() for name in find_added_names(model))


def find_added_names(model: nn.Module) -> frozenset[str]:
    """Return the full names of the parameters that methods added to layers of `model`."""
    return frozenset(
        f"{name}.{parameter}" if name else parameter
        for name, module in model.named_modules()
        if isinstance(module, AddsParameters)
        for parameter in module.added_parameters
    )
