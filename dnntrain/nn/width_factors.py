"""How learning rates follow the width of a network (Yang et al., "Tensor programs V", 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class ScalesWithWidth(Protocol):
    """A network with factors on the rates of its matrices, by parameter name; empty for none."""

    def get_rate_factors(self) -> Mapping[str, float]: ...


def get_width_factors(model: nn.Module) -> dict[str, float]:
    """Return the factors of all networks within `model`, by the full name of the parameter."""
    return {
        f"{name}.{parameter}" if name else parameter: factor
        for name, module in model.named_modules()
        if isinstance(module, ScalesWithWidth)
        for parameter, factor in module.get_rate_factors().items()
    }
