"""Weight standardization with group normalization.

Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization",
2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.norm._convert import replace_batch_norms
from dnntrain.choices.norm.group import make_group_norm
from dnntrain.config.fields import Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.grad_strides import keep_grad_strides
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Collectives,
    Hooks,
    LayoutRequirement,
    ModelStage,
    ModelTransform,
    NormChoice,
    Role,
    SingleProcess,
)


@dataclass(frozen=True)
class WeightStandardization(NormChoice):
    """Standardize each filter of a convolution; replace batch by group normalization.

    A standardized filter has mean 0 and standard deviation 1. The export holds the standardized
    filters under the same names.
    """

    num_groups: PositiveInt = 32  # groups of channels per layer, or the nearest number that divides its channels
    min_channels_per_group: PositiveInt = 4  # smallest number of channels per group, if the layer has as many
    eps: Positive = 1e-5  # added to the standard deviation of a filter

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_LAYER})
    batch_statistics: ClassVar[bool] = False

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.WEIGHT_FORM, "norm=weight_standardization", "use norm=none"),)

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(
            model_transforms=(ModelTransform(ModelStage.NORM, self.convert),),
            export_transforms=(bake_standardized_filters,),
        )

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Standardize the filters of `model`.

        Raises ConfigError if it has no batch normalization or a subclass of nn.Conv2d.
        """
        model = self.convert_for_export(model)
        for name, layer in model.named_modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            if type(layer) is not nn.Conv2d:
                raise ConfigError(
                    f"norm=weight_standardization cannot change {name} "
                    f"because {type(layer).__name__} is not nn.Conv2d itself",
                    "use norm=group",
                )
            # A filter of one number does not have a standard deviation.
            if layer.weight[0].numel() > 1:
                layer.__class__ = StandardizedConv2d
                layer.standardization_eps = self.eps  # type: ignore[assignment]
        return model

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """Convert a newly built `model` to the form in which this choice exports it."""
        return replace_batch_norms(
            model,
            "weight_standardization",
            lambda layer: make_group_norm(layer, self.num_groups, self.min_channels_per_group),
        )


class StandardizedConv2d(nn.Conv2d):
    """A convolution that standardizes its filters before it uses them."""

    standardization_eps: float

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs: Tensor = super()._conv_forward(input, standardize_weight(weight, self.standardization_eps), bias)
        return outputs


def standardize_weight(weight: Tensor, eps: float) -> Tensor:
    """Return (w - mean) / (std + eps) for each filter of `weight` [filters, …]; std with n - 1."""
    weight = keep_grad_strides(weight)
    filter_axes = list(range(1, weight.ndim))
    std, mean = torch.std_mean(weight, filter_axes, keepdim=True)
    standard_weight: Tensor = (weight - mean) / (std + eps)
    return standard_weight


@torch.no_grad()
def bake_standardized_filters(model: nn.Module) -> nn.Module:
    """Replace standardizing convolutions by plain ones that hold the standardized filters."""
    for layer in model.modules():
        if isinstance(layer, StandardizedConv2d):
            layer.weight.copy_(standardize_weight(layer.weight, layer.standardization_eps))
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
    return model
