"""L1 penalty on the weights, as a term of the gradient.

Tibshirani, "Regression shrinkage and selection via the lasso", 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dnntrain.config.fields import Positive
from dnntrain.nn.validate_transform import validate_transform
from dnntrain.nn.weight_selection import WeightSelection, get_gradients
from dnntrain.protocols import (
    BuildContext,
    GradientStage,
    GradientTransform,
    Hooks,
    RegChoice,
    TrainerHandles,
)
from dnntrain.utils.dtensor import local_shard


@dataclass(frozen=True)
class L1(RegChoice):
    """Add coefficient * sign(w), the gradient of coefficient * Σ |w|, to the gradient.

    The logged loss does not include the penalty.
    """

    coefficient: Positive = 1e-5  # factor on the sum of the weights' absolute values
    parameters: str = "*"  # pattern of weight names, as head.*; biases and norms never have a penalty

    def build(self, context: BuildContext) -> Hooks:
        weights = WeightSelection(self.parameters, "reg.l1.parameters")
        penalty = L1Penalty(self.coefficient, weights)
        return Hooks(
            model_transforms=(validate_transform(weights.survey_transform, context),),
            gradient_transforms=(GradientTransform(GradientStage.PENALTY, penalty),),
            bindings=(penalty.bind,),
        )


class L1Penalty:
    """Add the term to the local shards of gradients after the reduction over ranks.

    The result is the same on every layout.
    """

    def __init__(self, strength: float, weights: WeightSelection) -> None:
        self._strength, self._weights = strength, weights

    def bind(self, handles: TrainerHandles) -> None:
        self._weights.bind(handles)

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in get_gradients(list(self._weights.parameters.values())):
            local_shard(gradient).add_(local_shard(parameter).sign(), alpha=self._strength)
