"""Stochastic depth (Huang et al., "Deep networks with stochastic depth", 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from dnntrain.config.fields import Fraction, Literal
from dnntrain.errors import ConfigError
from dnntrain.nn.validate_transform import validate_transform
from dnntrain.protocols import BuildContext, Hooks, ModelStage, ModelTransform, RegChoice


@dataclass(frozen=True)
class DropPath(RegChoice):
    """Skip residual branches at random, for each example, while training.

    An example skips the branch of block l of L with `probability` * l / L; kept branches are scaled
    up.
    """

    probability: Fraction = 0.1  # probability of skipping the deepest block's residual branch
    depth_schedule: Literal["linear", "constant"] = (
        "linear"  # linear: probability * l / L for the l-th of L blocks; constant: the same for all
    )

    def build(self, context: BuildContext) -> Hooks:
        transform = ModelTransform(ModelStage.STRUCTURE, partial(apply_drop_path, self))
        return Hooks(model_transforms=(validate_transform(transform, context),))


def compute_drop_rates(count: int, rate: float, depth_schedule: str) -> list[float]:
    """Return the drop rate of each of `count` blocks, beginning at the input.

    See section 3 of the paper; the rate is 1 - survival.
    """
    return [rate * block / count if depth_schedule == "linear" else rate for block in range(1, count + 1)]


def apply_drop_path(options: DropPath, model: nn.Module) -> nn.Module:
    """Add stochastic depth to the residual branches of `model`.

    Parameters keep their names. Raises ConfigError if it has no residual branch that can be
    dropped.
    """
    blocks = find_branch_ends(model)
    if not blocks:
        raise ConfigError(
            "reg.drop_path drops residual branches, and the model has none that can be dropped",
            "use a residual network or transformer (resnet_cifar, wide_resnet, vit_tiny, timm's), "
            "or leave reg.drop_path out",
        )
    stochastic_depth: Any = import_module("torchvision.ops").StochasticDepth
    for names, rate in zip(
        blocks, compute_drop_rates(len(blocks), options.probability, options.depth_schedule), strict=True
    ):
        for name in names:
            module: Any = model.get_submodule(name)
            if isinstance(module, stochastic_depth):
                module.p = rate
            elif isinstance(module, nn.Identity):
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, stochastic_depth(rate, "row"))
            else:
                module.drop_prob = rate
    return model


def find_branch_ends(model: nn.Module) -> Sequence[Sequence[str]]:
    """Return the names of the modules at the ends of residual branches, block by block.

    They are torchvision's StochasticDepth, timm's DropPath, and the Identity that replaces it if it
    is off.
    """
    blocks: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        parent, _, leaf = name.rpartition(".")
        is_disabled = isinstance(module, nn.Identity) and leaf.startswith("drop_path")
        if is_disabled or type(module).__name__ in ("StochasticDepth", "DropPath"):
            blocks.setdefault(parent, []).append(name)
    return list(blocks.values())
