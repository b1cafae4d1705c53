"""torchvision's MobileNetV3-Small with a stem for small images.

Howard et al., "Searching for MobileNetV3", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from dnntrain.choices.model._adapters import adapt_input_channels, build_and_check, import_library
from dnntrain.config.fields import Fraction, Literal, Positive, Probability
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


@dataclass(frozen=True)
class MobilenetV3Small(ModelChoice):
    """Inverted residuals with squeeze-and-excitation; images of at least 8x8 pixels."""

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True

    stem_stride: Literal[1, 2] = (
        1  # stride of the first convolution: 1 for images up to about 64 pixels, 2 as published
    )
    width_factor: Positive = 1.0  # factor on all channels
    dropout: Fraction = 0.2  # probability of dropping a feature before the last layer
    bn_momentum: Probability = 0.1  # momentum of the running statistics; the published 0.01 needs thousands of steps

    def build(self, shape: ModelShape) -> nn.Module:
        shape.check_min_size("mobilenet_v3_small", 8)
        make = partial(make_mobilenet, shape, self.stem_stride, self.width_factor, self.dropout, self.bn_momentum)
        return build_and_check(make, shape, "model=mobilenet_v3_small")


def make_mobilenet(shape: ModelShape, stem_stride: int, width: float, dropout: float, bn_momentum: float) -> nn.Module:
    """Return torchvision's model with the given stem stride and batch normalization."""
    model: nn.Module = import_library("torchvision.models").mobilenet_v3_small(
        weights=None,
        num_classes=shape.num_classes,
        width_mult=width,
        dropout=dropout,
        norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=bn_momentum),
    )
    adapt_input_channels(model, shape.channels)
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    stem.stride = (stem_stride, stem_stride)
    return model
