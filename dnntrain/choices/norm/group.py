"""Group normalisation in the place of batch normalisation (Wu & He, "Group normalization", 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.choices.norm._convert import NormFacts, finished, replaced
from dnntrain.config.fields import PositiveInt
from dnntrain.protocols import Alone, Collectives, Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class Group:
    """Each example is normalised by itself, over groups of channels: independent of batch and layout. Exported as group normalisation."""

    groups: PositiveInt = 32  # groups of channels of a layer, or the nearest number that divides its channels
    smallest: PositiveInt = 4  # fewest channels of a group, where a layer has as many

    needs: ClassVar[frozenset[Need]] = frozenset()
    batch_statistics: ClassVar[bool] = False

    def build(self, context: Context) -> Parts:
        return Parts(model=(ModelTransform(ModelStage.NORM, self.converted),))

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        """`model` with group normalisation. Raises ConfigError where it has no batch normalisation."""
        return replaced(model, "group", lambda layer: group_norm(layer, self.groups, self.smallest))

    def exported(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return self.converted(model)

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return ()


class GroupNorm(nn.GroupNorm):
    """Group normalisation with what the replaced layer did after it."""

    def forward(self, input: Tensor) -> Tensor:
        return finished(self, super().forward(input))


def group_norm(layer: _BatchNorm, groups: int, smallest: int) -> GroupNorm:
    """Group normalisation of the channels of `layer`, with its epsilon."""
    count = group_count(layer.num_features, groups, smallest)
    return GroupNorm(count, layer.num_features, eps=layer.eps, affine=layer.affine)


def group_count(channels: int, groups: int, smallest: int) -> int:
    """The divisor of `channels` nearest to `groups` that leaves `smallest` channels in a group; of two as near, the smaller."""
    fitting = [count for count in range(1, channels + 1) if channels % count == 0 and channels // count >= smallest]
    return min(fitting, key=lambda count: abs(count - groups), default=1)
