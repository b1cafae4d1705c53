"""Initialization schemes of weights.

A scheme is applied to each module after the module's own reset, with torch's generator seeded for
it.

default      torch's: uniform within ±1/sqrt(fan_in), biases too
kaiming      normal of variance 2/fan_in, biases 0 (He et al., "Delving deep into rectifiers", 2015)
orthogonal   rows or columns orthonormal times sqrt(2), biases 0 (Saxe et al., "Exact …", 2014)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn


def initialize_kaiming(module: nn.Module) -> None:
    """Initialize so that ReLU layers keep the variance of activations."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        _zero_bias(module)


def initialize_orthogonal(module: nn.Module) -> None:
    """Initialize so that ReLU layers keep the norm of activations.

    A convolution is treated as the matrix [out, in * kh * kw].
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.orthogonal_(module.weight, gain=math.sqrt(2.0))
        _zero_bias(module)


def _zero_bias(module: nn.Linear | nn.Conv2d) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)


#: None: the layers' own rules.
InitScheme = Callable[[nn.Module], None] | None

INIT_SCHEMES: dict[str, InitScheme] = {
    "default": None,
    "kaiming": initialize_kaiming,
    "orthogonal": initialize_orthogonal,
}
