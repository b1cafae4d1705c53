"""Weight standardisation with group normalisation (Qiao et al., "Micro-batch training with batch-channel normalization and weight
standardization", 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.norm._convert import NormFacts, replaced
from dnntrain.choices.norm.group import group_norm
from dnntrain.config.fields import Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.grad_strides import own_strides
from dnntrain.protocols import Alone, Collectives, Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class WeightStandardisation:
    """Each filter of a convolution is used with mean 0 and standard deviation 1; batch becomes group normalisation.

    What is exported holds the standardised filters, under the same names.
    """

    groups: PositiveInt = 32  # groups of channels of a layer, or the nearest number that divides its channels
    smallest: PositiveInt = 4  # fewest channels of a group, where a layer has as many
    epsilon: Positive = 1e-5  # added to the standard deviation of a filter

    needs: ClassVar[frozenset[Need]] = frozenset({Need.WHOLE_LAYER})
    batch_statistics: ClassVar[bool] = False

    def build(self, context: Context) -> Parts:
        return Parts(model=(ModelTransform(ModelStage.NORM, self.converted),), export=(baked,))

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        """`model` with standardised filters. Raises ConfigError where it has no batch normalisation or other convolutions."""
        model = self.exported(model)
        for name, layer in model.named_modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            if type(layer) is not nn.Conv2d:
                raise ConfigError(
                    f"norm=weight_standardisation cannot change {name}: {type(layer).__name__} is a convolution of its own kind",
                    "use norm=group",
                )
            # A filter of one number has no deviation to divide by.
            if layer.weight[0].numel() > 1:
                layer.__class__ = StandardisedConv2d
                layer.standardisation_epsilon = self.epsilon  # type: ignore[assignment]
        return model

    def exported(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return replaced(model, "weight_standardisation", lambda layer: group_norm(layer, self.groups, self.smallest))

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return ()


class StandardisedConv2d(nn.Conv2d):
    """A convolution that uses its filters standardised."""

    standardisation_epsilon: float

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs: Tensor = super()._conv_forward(input, standardised(weight, self.standardisation_epsilon), bias)
        return outputs


def standardised(weight: Tensor, epsilon: float) -> Tensor:
    """(w - mean) / (std + epsilon) of each filter of `weight` [filters, …], std with n - 1."""
    weight = own_strides(weight)
    rest = list(range(1, weight.ndim))
    std, mean = torch.std_mean(weight, rest, keepdim=True)
    found: Tensor = (weight - mean) / (std + epsilon)
    return found


@torch.no_grad()
def baked(model: nn.Module) -> nn.Module:
    """`model` with plain convolutions that hold the standardised filters."""
    for layer in model.modules():
        if isinstance(layer, StandardisedConv2d):
            layer.weight.copy_(standardised(layer.weight, layer.standardisation_epsilon))
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
    return model
