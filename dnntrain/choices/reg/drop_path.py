"""Stochastic depth (Huang et al., "Deep networks with stochastic depth", 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from torch import nn

from dnntrain.choices.reg._validate import tried
from dnntrain.config.fields import Fraction, Literal
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class DropPath:
    """While training each example skips the residual branch of block l of L with probability rate * l / L; what is kept is scaled up."""

    rate: Fraction = 0.1  # probability of skipping the deepest block's residual branch
    by_depth: Literal["linear", "constant"] = "linear"  # linear: rate * l / L for the l-th of L blocks; constant: rate

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        transform = ModelTransform(ModelStage.STRUCTURE, partial(with_drop_path, self))
        return Parts(model=(tried(transform, context),))


def rates(count: int, rate: float, by_depth: str) -> list[float]:
    """The rate of each of `count` blocks, the first nearest to the input (section 3 of the paper, as 1 - survival)."""
    return [rate * block / count if by_depth == "linear" else rate for block in range(1, count + 1)]


def with_drop_path(knobs: DropPath, model: nn.Module) -> nn.Module:
    """`model` with its residual branches dropped; parameters keep their names. Raises ConfigError where it has no place for that."""
    blocks = places(model)
    if not blocks:
        raise ConfigError(
            "reg.drop_path drops residual branches, and the model has none that can be dropped",
            "use a residual network or transformer (resnet_cifar, wide_resnet, vit_tiny, timm's), or leave reg.drop_path out",
        )
    stochastic_depth: Any = import_module("torchvision.ops").StochasticDepth
    for names, rate in zip(blocks, rates(len(blocks), knobs.rate, knobs.by_depth), strict=True):
        for name in names:
            module: Any = model.get_submodule(name)
            if isinstance(module, stochastic_depth):
                module.p = rate
            elif isinstance(module, nn.Identity):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, stochastic_depth(rate, "row"))
            else:
                module.drop_prob = rate
    return model


def places(model: nn.Module) -> Sequence[Sequence[str]]:
    """Names of the modules at the ends of residual branches, block by block: torchvision's StochasticDepth, timm's DropPath, and the
    Identity that stands for it where it is off.
    """
    blocks: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        parent, _, last = name.rpartition(".")
        off = isinstance(module, nn.Identity) and last.startswith("drop_path")
        if off or type(module).__name__ in ("StochasticDepth", "DropPath"):
            blocks.setdefault(parent, []).append(name)
    return list(blocks.values())
