"""Group normalization instead of batch normalization (Wu & He, "Group normalization", 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.choices.norm._convert import apply_drop_and_act, replace_batch_norms
from dnntrain.config.fields import PositiveInt
from dnntrain.protocols import (
    BuildContext,
    Collectives,
    Hooks,
    ModelStage,
    ModelTransform,
    NormChoice,
    SingleProcess,
)


@dataclass(frozen=True)
class Group(NormChoice):
    """Normalize each example by itself, over groups of channels.

    The result does not depend on batch or layout. It is exported as group normalization.
    """

    num_groups: PositiveInt = 32  # groups of channels per layer, or the nearest number that divides its channels
    min_channels_per_group: PositiveInt = 4  # smallest number of channels per group, if the layer has as many

    batch_statistics: ClassVar[bool] = False

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(model_transforms=(ModelTransform(ModelStage.NORM, self.convert),))

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Replace batch by group normalization. Raises ConfigError if `model` has none."""
        return replace_batch_norms(
            model, "group", lambda layer: make_group_norm(layer, self.num_groups, self.min_channels_per_group)
        )

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """Convert a newly built `model` to the form in which this choice exports it."""
        return self.convert(model)


class GroupNorm(nn.GroupNorm):
    """Group normalization, then the dropout and activation of the replaced layer."""

    def forward(self, input: Tensor) -> Tensor:
        return apply_drop_and_act(self, super().forward(input))


def make_group_norm(layer: _BatchNorm, groups: int, smallest: int) -> GroupNorm:
    """Return group normalization of the channels of `layer`, with its epsilon."""
    count = choose_group_count(layer.num_features, groups, smallest)
    return GroupNorm(count, layer.num_features, eps=layer.eps, affine=layer.affine)


def choose_group_count(channels: int, groups: int, smallest: int) -> int:
    """Return the divisor of `channels` nearest to `groups`; of two as near, the smaller.

    A group must hold at least `smallest` channels.
    """
    divisors = [count for count in range(1, channels + 1) if channels % count == 0 and channels // count >= smallest]
    return min(divisors, key=lambda count: abs(count - groups), default=1)
