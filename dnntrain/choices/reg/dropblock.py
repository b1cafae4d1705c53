"""DropBlock, by torchvision.

Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from dnntrain.choices.reg.dropout import format_names
from dnntrain.config.fields import Fraction, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.validate_transform import validate_transform
from dnntrain.protocols import BuildContext, Hooks, ModelStage, ModelTransform, RegChoice


@dataclass(frozen=True)
class Dropblock(RegChoice):
    """Set squares of a feature map to 0 while training; scale up the rest.

    The side of a square is `block_size`; about `probability` of the feature map is set to 0.
    """

    probability: Fraction = 0.1  # fraction of a feature map that is dropped
    block_size: PositiveInt = 7  # side of a square, an odd number; smaller maps use the largest odd one that fits
    modules: str | None = (
        None  # pattern of modules whose outputs lose squares, as stages.2.*; null: convolutions of the second half
    )

    def build(self, context: BuildContext) -> Hooks:
        if self.block_size % 2 == 0:
            raise ConfigError(
                f"reg.dropblock.block_size={self.block_size} is even; "
                "it must be odd because a square has a pixel as its center",
                f"use reg.dropblock.block_size={self.block_size + 1} or {self.block_size - 1}",
            )
        transform = ModelTransform(ModelStage.STRUCTURE, partial(apply_dropblock, self))
        return Hooks(model_transforms=(validate_transform(transform, context),))


def apply_dropblock(options: Dropblock, model: nn.Module) -> nn.Module:
    """Add hooks that drop squares to `model`; modules and parameters stay as they are.

    Raises ConfigError if no module matches.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    if options.modules is None:
        names = convolutions[len(convolutions) // 2 :]
    else:
        names = [name for name in modules if fnmatchcase(name, options.modules)]
    if not names:
        raise ConfigError(
            f"reg.dropblock.modules={options.modules} matches no module of the model, which has {format_names(modules)}"
            if convolutions
            else "reg.dropblock drops squares of feature maps, and the model has no convolution",
            "correct the pattern" if convolutions else "use reg=[dropout], or a convolutional model",
        )
    for name in names:
        modules[name].register_forward_hook(DropBlockHook(options.probability, options.block_size))
    return model


class DropBlockHook:
    """A forward hook that drops squares of a module's output while training.

    The output is [n, channels, height, width].
    """

    def __init__(self, rate: float, block: int) -> None:
        self._rate, self._block = rate, block
        self._drop: Any = import_module("torchvision.ops").drop_block2d

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training or not len(output):
            return output
        side = min(self._block, *output.shape[2:])
        result: Tensor = self._drop(output, self._rate, side if side % 2 else side - 1)
        return result
