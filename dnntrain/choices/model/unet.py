"""U-Net (Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._init_schemes import InitScheme, initialize_kaiming
from dnntrain.config.fields import Annotated, PositiveInt, Range
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice, OutputKind


@dataclass(frozen=True)
class Unet(ModelChoice):
    """Halve the image `depth` times, then double it again; each size joins the features of the way down.

    A level is two 3x3 convolutions with batch normalization and ReLU, with `width` · 2^level channels.
    Doubling repeats pixels. Convolutions are padded, so that the outputs have the size of the image.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True
    output_kinds: ClassVar[frozenset[OutputKind]] = frozenset({OutputKind.MAP})

    width: PositiveInt = 16  # channels at the size of the image; they double with each halving
    depth: Annotated[int, Range(at_least=1, at_most=6)] = (
        3  # number of halvings; the sides must be divisible by 2^depth
    )

    def build(self, shape: ModelShape) -> nn.Module:
        factor = 2**self.depth
        if shape.height % factor or shape.width % factor:
            depth = next(depth for depth in range(self.depth, -1, -1) if not (shape.height | shape.width) % 2**depth)
            sides = [max(1, round(side / factor)) * factor for side in (shape.height, shape.width)]
            raise ConfigError(
                f"model.depth={self.depth} needs images whose sides are divisible by {factor}; "
                f"these have {shape.height}x{shape.width}",
                (f"use model.depth={depth}, or " if depth else "use ") + f"images of {sides[0]}x{sides[1]}",
            )
        return UNet(shape, self.width, self.depth)


class UNet(nn.Module):
    """Images [n, channels, height, width] → logits [n, classes, height, width]."""

    def __init__(self, shape: ModelShape, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            Level(before, after) for before, after in zip([shape.channels, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottom = Level(widths[-2], widths[-1])
        self.up = nn.ModuleList(
            Level(below + side, side) for below, side in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(width, shape.num_classes, 1)
        self.weight_scheme: InitScheme = initialize_kaiming

    def forward(self, images: Tensor) -> Tensor:
        features, sides = images, []
        for level in self.down:
            features = level(features)
            sides.append(features)
            features = self.pool(features)
        features = self.bottom(features)
        for level, side in zip(self.up, reversed(sides), strict=True):
            features = level(torch.cat([self.upsample(features), side], dim=1))
        logits: Tensor = self.head(features)
        return logits


class Level(nn.Module):
    """Two 3x3 convolutions from `before` to `after` channels, each with normalization and ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, features: Tensor) -> Tensor:
        features = functional.relu(self.norm1(self.conv1(features)), inplace=True)
        return functional.relu(self.norm2(self.conv2(features)), inplace=True)
