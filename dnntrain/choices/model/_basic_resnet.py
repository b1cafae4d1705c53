"""Residual networks of basic blocks, of any depth.

He et al., "Deep residual learning for image recognition", 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._init_schemes import InitScheme, initialize_kaiming

#: pad: option A of the paper, without parameters; project: option B, a 1x1 convolution.
Shortcut = Literal["pad", "project"]


class ResidualNetwork(nn.Module):
    """stem → stages of blocks → global average → linear.

    Images [n, channels, height, width] → logits [n, classes]. Each stage has `blocks[i]` blocks of
    `widths[i]` channels; all but the first begin with stride 2.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        shortcut: Shortcut,
        small_stem: bool,
        zero_residual: bool,
    ) -> None:
        super().__init__()
        self.stem = Stem(channels, widths[0], small_stem)
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if stage == 0 else 2, *[1] * (count - 1)]
            sizes = zip([inputs, *[width] * (count - 1)], strides, strict=True)
            self.stages.append(
                nn.Sequential(
                    *(BasicBlock(width_in, width, stride, shortcut, zero_residual) for width_in, stride in sizes)
                )
            )
            inputs = width
        self.head = nn.Linear(inputs, num_classes)
        self.weight_scheme: InitScheme = initialize_kaiming

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        return self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Map features [n, channels, height, width] to logits [n, classes]."""
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages."""
        blocks = [((name,), block) for name, block in list_blocks(self.stages)]
        return [(("stem",), self.stem), *blocks, (("head",), self.classify)]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks."""
        inner = {"conv1": "columns", "norm1": "features", "conv2": "rows"}
        return {f"{block}.{name}": style for block, _ in list_blocks(self.stages) for name, style in inner.items()}


def list_blocks(stages: nn.ModuleList) -> list[tuple[str, nn.Module]]:
    """Return (name in the network, block) of every block of `stages`, in order."""
    return [
        (f"stages.{stage}.{number}", block)
        for stage, blocks in enumerate(stages)
        for number, block in enumerate(blocks.children())
    ]


class Stem(nn.Module):
    """A 3x3 convolution for small images, or the stem of ImageNet models.

    The latter is a 7x7 convolution with stride 2 and max pooling with stride 2.
    """

    def __init__(self, channels: int, width: int, small: bool) -> None:
        super().__init__()
        size, stride = (3, 1) if small else (7, 2)
        self.conv = nn.Conv2d(channels, width, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.small = small

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.norm(self.conv(images)), inplace=True)
        return features if self.small else functional.max_pool2d(features, 3, 2, 1)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + norm2(conv2(relu(norm1(conv1(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut, zero_residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = make_shortcut(inputs, outputs, stride, shortcut)
        self.drop_path = nn.Identity()
        self.zero_residual = zero_residual

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(features)), inplace=True)
        return functional.relu(self.drop_path(self.norm2(self.conv2(inner))) + self.shortcut(features), inplace=True)

    def initialize_own_parameters(self) -> None:
        """Initialize the block to its shortcut.

        See Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.1.
        """
        if self.zero_residual and getattr(self.norm2, "weight", None) is not None:
            nn.init.zeros_(self.norm2.weight)


class PaddedShortcut(nn.Module):
    """Every second pixel, new channels zero: option A of the paper, section 4.2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = outputs - inputs
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        half = self.extra_channels // 2
        return functional.pad(
            features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra_channels - half)
        )


class ProjectedShortcut(nn.Module):
    """A 1x1 convolution and its normalization: option B."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.norm(self.conv(features))
        return projected


def make_shortcut(inputs: int, outputs: int, stride: int, kind: Shortcut) -> nn.Module:
    """Return the identity if sizes agree, else a shortcut of the chosen kind."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return PaddedShortcut(inputs, outputs, stride) if kind == "pad" else ProjectedShortcut(inputs, outputs, stride)
