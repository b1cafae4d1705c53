"""A convolutional network for short trainings.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from dnntrain.config.fields import PositiveInt
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice

#: The paper's factor of the logits; without it, so wide a head becomes too confident too early.
_LOGIT_SCALE = 1 / 9


@dataclass(frozen=True)
class Airbench(ModelChoice):
    """Three blocks that pool before they normalize; images of at least 8x8 pixels.

    Pooling first leaves a quarter of the pixels for most of a block's work. Unlike in the paper,
    the stem is a padded 3x3 convolution, which reg.whitening can initialize and freeze; norms learn
    their scale; the head has a bias; and a block's second convolution has a shortcut around it, as
    in the paper's larger networks.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True

    stem_channels: PositiveInt = 16  # channels of the first convolution
    widths: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256)  # channels of the three blocks

    def build(self, shape: ModelShape) -> nn.Module:
        shape.check_min_size("airbench", 8)
        return AirbenchNetwork(shape, self.stem_channels, self.widths)


class AirbenchNetwork(nn.Module):
    """stem → blocks → global maximum → linear.

    Images [n, channels, height, width] → logits [n, classes].
    """

    def __init__(self, shape: ModelShape, stem: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape.channels, stem, 3, padding=1)
        inputs = (stem, *widths[:-1])
        self.blocks = nn.ModuleList(
            AirbenchBlock(width_in, width) for width_in, width in zip(inputs, widths, strict=True)
        )
        self.head = nn.Linear(widths[-1], shape.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.apply_stem(images)
        for block in self.blocks:
            features = block(features)
        return self.classify(features)

    def apply_stem(self, images: Tensor) -> Tensor:
        """Apply the first convolution."""
        return functional.gelu(self.stem(images))

    def classify(self, features: Tensor) -> Tensor:
        """Map features [n, channels, height, width] to logits [n, classes]."""
        logits: Tensor = _LOGIT_SCALE * self.head(functional.adaptive_max_pool2d(features, 1).flatten(1))
        return logits

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages."""
        blocks = [((f"blocks.{number}",), block) for number, block in enumerate(self.blocks)]
        return [(("stem",), self.apply_stem), *blocks, (("head",), self.classify)]


class AirbenchBlock(nn.Module):
    """y = gelu(norm1(pool(conv1(x)))); y + gelu(norm2(conv2(y))).

    The outputs have half the height and width of x.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.drop_path = nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        pooled = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(features), 2)))
        inner: Tensor = self.drop_path(functional.gelu(self.norm2(self.conv2(pooled))))
        return pooled + inner
