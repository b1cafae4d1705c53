"""DropBlock (Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", 2018), torchvision's."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor, nn

from dnntrain.choices.reg._validate import tried
from dnntrain.choices.reg.dropout import listed
from dnntrain.config.fields import Fraction, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class Dropblock:
    """While training, squares of block x block neighbours of a feature map are 0, so that about `rate` of it is; the rest is scaled up."""

    rate: Fraction = 0.1  # share of a feature map that is dropped
    block: PositiveInt = 7  # side of a square, an odd number; on smaller maps the largest odd one that fits
    where: str | None = None  # names of modules whose outputs lose squares; null: convolutions of the second half

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        if self.block % 2 == 0:
            raise ConfigError(
                f"reg.dropblock.block={self.block} is even, and a square is laid around a pixel",
                f"use reg.dropblock.block={self.block + 1} or {self.block - 1}",
            )
        transform = ModelTransform(ModelStage.STRUCTURE, partial(with_dropblock, self))
        return Parts(model=(tried(transform, context),))


def with_dropblock(knobs: Dropblock, model: nn.Module) -> nn.Module:
    """`model` with hooks that drop squares; modules and parameters stay as they are. Raises ConfigError where nothing matches."""
    modules = {name: module for name, module in model.named_modules() if name}
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    if knobs.where is None:
        found = convolutions[len(convolutions) // 2 :]
    else:
        found = [name for name in modules if fnmatchcase(name, knobs.where)]
    if not found:
        raise ConfigError(
            f"reg.dropblock.where={knobs.where} matches no module of the model, which has {listed(modules)}"
            if convolutions
            else "reg.dropblock drops squares of feature maps, and the model has no convolution",
            "correct the pattern" if convolutions else "use reg=[dropout], or a convolutional model",
        )
    for name in found:
        modules[name].register_forward_hook(DroppingBlocks(knobs.rate, knobs.block))
    return model


class DroppingBlocks:
    """A forward hook: drops squares of the output [n, channels, height, width] of a module that is training."""

    def __init__(self, rate: float, block: int) -> None:
        self._rate, self._block = rate, block
        self._drop: Any = import_module("torchvision.ops").drop_block2d

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training or not len(output):
            return output
        side = min(self._block, *output.shape[2:])
        dropped: Tensor = self._drop(output, self._rate, side if side % 2 else side - 1)
        return dropped
