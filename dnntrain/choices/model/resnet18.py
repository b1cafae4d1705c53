"""ResNet-18 with a stem for small images (He et al., "Deep residual learning …", 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.model._basic_resnet import ResidualNetwork
from dnntrain.config.fields import PositiveInt
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


@dataclass(frozen=True)
class Resnet18(ModelChoice):
    """Four stages of two basic blocks, 64 to 512 channels.

    Images must have at least 8x8 pixels, 32x32 with the large stem.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True

    width: PositiveInt = 64  # channels of the first stage; each later stage doubles them
    small_stem: bool = True  # true: 3x3 convolution; false, for images above 64 pixels: 7x7 with stride 2, max pooling
    zero_residual: bool = True  # true: each block starts as its shortcut

    def build(self, shape: ModelShape) -> nn.Module:
        shape.check_min_size("resnet18", 8 if self.small_stem else 32)
        return ResidualNetwork(
            shape.channels,
            shape.num_classes,
            widths=tuple(self.width * factor for factor in (1, 2, 4, 8)),
            blocks=(2, 2, 2, 2),
            shortcut="project",
            small_stem=self.small_stem,
            zero_residual=self.zero_residual,
        )
