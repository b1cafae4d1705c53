"""Make maps by integrated gradients (Sundararajan, Taly & Yan, ICML 2017).

The map of an input x is x · ∫ gradient(t x) dt for t from 0 to 1, summed over the channels. The
baseline 0 is the mean color. The sum of a map is the score of x minus the score of the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.explain.method import Aim, require_gradients

#: Points of the Gauss-Legendre quadrature.
_POINTS = 50


@dataclass(frozen=True)
class IntegratedGradients:
    """The integral by Gauss-Legendre quadrature with `points` points."""

    grid: tuple[int, int]
    points: int = _POINTS
    name: str = "integrated_gradients"
    needs_gradients: bool = True

    @property
    def calls(self) -> int:
        return 3 * self.points

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        return self.compute_attributions(model, inputs, aim).sum(1)

    def compute_attributions(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        """Return the share of each number of `inputs` in its score, in the form of `inputs`."""
        nodes, weights = np.polynomial.legendre.leggauss(self.points)
        total = torch.zeros_like(inputs, dtype=torch.float64)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            with require_gradients(inputs * node) as images:
                scores = aim.compute_scores(model(images))
                (gradients,) = torch.autograd.grad(scores.sum(), images)
            total += weight * gradients.double()
        return (total * inputs.double()).float()
