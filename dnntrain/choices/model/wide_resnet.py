"""Wide residual networks: pre-activation, few layers, many channels.

Zagoruyko & Komodakis, "Wide residual networks", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._basic_resnet import list_blocks
from dnntrain.choices.model._init_schemes import InitScheme, initialize_kaiming
from dnntrain.config.fields import Fraction, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


@dataclass(frozen=True)
class WideResnet(ModelChoice):
    """Three stages of n blocks with 16k, 32k and 64k channels: depth 6n + 4.

    Images must have at least 4x4 pixels.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True

    depth: PositiveInt = 16  # layers with weights: 6n + 4, so 10, 16, 22, 28, 40 …
    width_factor: PositiveInt = 2  # factor k on the channels
    dropout: Fraction = 0.0  # probability of dropping a value between the two convolutions of a block

    def build(self, shape: ModelShape) -> nn.Module:
        if self.depth < 10 or self.depth % 6 != 4:
            below = max(10, (self.depth - 4) // 6 * 6 + 4)
            raise ConfigError(f"model.depth={self.depth} is not 6n + 4", f"use model.depth={below} or {below + 6}")
        shape.check_min_size("wide_resnet", 4)
        return WideNetwork(shape, (self.depth - 4) // 6, self.width_factor, self.dropout)


class WideNetwork(nn.Module):
    """stem → stages → norm → ReLU → average → linear.

    Images [n, channels, height, width] → logits [n, classes].
    """

    def __init__(self, shape: ModelShape, blocks: int, widen: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape.channels, 16, 3, 1, 1, bias=False)
        self.stages = nn.ModuleList()
        inputs = 16
        for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            first = WideBlock(inputs, width, stride, dropout)
            self.stages.append(nn.Sequential(first, *(WideBlock(width, width, 1, dropout) for _ in range(blocks - 1))))
            inputs = width
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, shape.num_classes)
        self.weight_scheme: InitScheme = initialize_kaiming

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        return self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Map features [n, channels, height, width] to logits [n, classes]."""
        features = functional.relu(self.norm(features), inplace=True)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages."""
        blocks = [((name,), block) for name, block in list_blocks(self.stages)]
        return [(("stem",), self.stem), *blocks, (("norm", "head"), self.classify)]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks."""
        inner = {"conv1": "columns", "norm2": "features", "conv2": "rows"}
        return {f"{block}.{name}": style for block, _ in list_blocks(self.stages) for name, style in inner.items()}


class WideBlock(nn.Module):
    """x + conv2(relu(norm2(conv1(a)))), with a = relu(norm1(x)).

    If sizes change, x is a 1x1 convolution of `a`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        is_same_shape = inputs == outputs and stride == 1
        self.shortcut = None if is_same_shape else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        active = functional.relu(self.norm1(features), inplace=True)
        inner = self.dropout(functional.relu(self.norm2(self.conv1(active)), inplace=True))
        shortcut: Tensor = features if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.drop_path(self.conv2(inner))
        return shortcut + residual
