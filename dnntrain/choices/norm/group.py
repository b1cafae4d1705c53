"""Group normalisation in the place of batch normalisation (Wu & He, "Group normalization", 2018)."""

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
    """Each example is normalised by itself, over groups of channels: independent of batch and layout. Exported as group normalisation."""

    num_groups: PositiveInt = 32  # groups of channels per layer, or the nearest number that divides its channels
    min_channels_per_group: PositiveInt = 4  # smallest number of channels per group, if the layer has as many

    batch_statistics: ClassVar[bool] = False

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(model_transforms=(ModelTransform(ModelStage.NORM, self.convert),))

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """`model` with group normalisation. Raises ConfigError where it has no batch normalisation."""
        return replace_batch_norms(
            model, "group", lambda layer: make_group_norm(layer, self.num_groups, self.min_channels_per_group)
        )

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return self.convert(model)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with what the replaced layer did after it."""

    def forward(self, input: Tensor) -> Tensor:
        return apply_drop_and_act(self, super().forward(input))


def make_group_norm(layer: _BatchNorm, groups: int, smallest: int) -> GroupNorm:
    """Group normalisation of the channels of `layer`, with its epsilon."""
    count = choose_group_count(layer.num_features, groups, smallest)
    return GroupNorm(count, layer.num_features, eps=layer.eps, affine=layer.affine)


def choose_group_count(channels: int, groups: int, smallest: int) -> int:
    """The divisor of `channels` nearest to `groups` that leaves `smallest` channels in a group; of two as near, the smaller."""
    divisors = [count for count in range(1, channels + 1) if channels % count == 0 and channels // count >= smallest]
    return min(divisors, key=lambda count: abs(count - groups), default=1)
