"""What a parallel choice decides: how many processes share a step, and how the model is wrapped for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dnntrain.protocols import Need


@dataclass(frozen=True)
class Layout:
    """`wrap(model)` gives the module whose backward pass leaves the mean over ranks of the gradients in `.grad`.

    `provides` is what methods may need of it.
    """

    name: str
    provides: frozenset[Need]
    wrap: Callable[[nn.Module], nn.Module]
