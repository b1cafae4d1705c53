"""Residual networks for CIFAR-10 (He et al., "Deep residual learning …", 2016, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.model._basic_resnet import ResidualNetwork
from dnntrain.config.fields import Literal, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


@dataclass(frozen=True)
class ResnetCifar(ModelChoice):
    """Three stages of n basic blocks with 16, 32 and 64 channels: depth 6n + 2.

    Images must have at least 4x4 pixels.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True

    depth: PositiveInt = 20  # layers with weights: 6n + 2, so 8, 14, 20, 32, 44, 56, 110 …
    width: PositiveInt = 16  # channels of the first stage; each later stage doubles them
    shortcut: Literal["pad", "project"] = (
        "pad"  # shortcut between sizes: pad (zeros, the paper's option A) or project (1x1 convolution, option B)
    )
    zero_residual: bool = False  # true: each block starts as its shortcut, for deep networks and large batches

    def build(self, shape: ModelShape) -> nn.Module:
        if self.depth < 8 or self.depth % 6 != 2:
            below = max(8, (self.depth - 2) // 6 * 6 + 2)
            raise ConfigError(f"model.depth={self.depth} is not 6n + 2", f"use model.depth={below} or {below + 6}")
        shape.check_min_size("resnet_cifar", 4)
        return ResidualNetwork(
            shape.channels,
            shape.num_classes,
            widths=(self.width, 2 * self.width, 4 * self.width),
            blocks=((self.depth - 2) // 6,) * 3,
            shortcut=self.shortcut,
            small_stem=True,
            zero_residual=self.zero_residual,
        )
