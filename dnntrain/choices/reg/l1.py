"""L1 penalty on the weights (Tibshirani, "Regression shrinkage and selection via the lasso", 1996), as a term of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dnntrain.choices.reg._validate import tried
from dnntrain.choices.reg._weight_selection import Weights, gradients_of
from dnntrain.config.fields import Positive
from dnntrain.protocols import Built, Context, GradientStage, GradientTransform, Need, Parts
from dnntrain.utils.dtensor import local


@dataclass(frozen=True)
class L1:
    """strength * sign(w) is added to the gradient of each weight: that of strength * Σ |w|. The loss that is logged stays the task's."""

    strength: Positive = 1e-5  # factor on the sum of the weights' sizes
    where: str = "*"  # pattern of names of the weights; biases and norms never have a penalty

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        weights = Weights(self.where, "reg.l1.where")
        penalty = GradientTransform(GradientStage.PENALTY, L1Penalty(self.strength, weights))
        return Parts(model=(tried(weights.survey, context),), gradient=(penalty,))


class L1Penalty:
    """Adds the term after the reduction over ranks, to the parts of gradients that are here: the same on every layout."""

    def __init__(self, strength: float, weights: Weights) -> None:
        self._strength, self._weights = strength, weights

    def bind(self, built: Built) -> None:
        self._weights.bind(built)

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in gradients_of(list(self._weights.parameters.values())):
            local(gradient).add_(local(parameter).sign(), alpha=self._strength)
