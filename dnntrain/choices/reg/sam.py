"""Sharpness-aware minimisation (Foret et al., 2021), and its scale-invariant form ASAM (Kwon et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.reg._weight_selection import gradients_of
from dnntrain.config.fields import Positive
from dnntrain.protocols import Built, Context, Gradients, Need, Parts, StepLoss
from dnntrain.utils.dtensor import local

#: Added to the sizes of weights in the adaptive form (eta of Kwon et al., section 4).
_ETA = 0.01


@dataclass(frozen=True)
class Sam:
    """The step is taken with the gradient at w + e, e = rho * g / |g|: where the loss is about largest within rho of w.

    Adaptive: e = rho * t² g / |t g| with t = |w| + 0.01, number by number. Each step computes the gradient twice.
    """

    rho: Positive = 0.05  # radius of the neighbourhood; the adaptive form wants about ten times as much
    adaptive: bool = False  # true: ASAM, the neighbourhood scales with the weights

    needs: ClassVar[frozenset[Need]] = frozenset({Need.SECOND_PASS})

    def build(self, context: Context) -> Parts:
        return Parts(update=SharpnessAware(self.rho, self.adaptive))


class SharpnessAware:
    """Two passes over the same batch with the same random numbers. Buffers, such as running statistics, keep what the first left."""

    def __init__(self, rho: float, adaptive: bool) -> None:
        self._rho, self._adaptive = rho, adaptive
        self._parameters: list[nn.Parameter] = []
        self._buffers: list[Tensor] = []

    def bind(self, built: Built) -> None:
        self._parameters = [parameter for parameter in built.model.parameters() if parameter.requires_grad]
        self._buffers = list(built.model.buffers())
        self._collect = built.collect

    def __call__(self, gradients: Gradients, apply: Callable[[], None]) -> StepLoss:
        loss = gradients()
        buffers = [buffer.clone() for buffer in self._buffers]
        weights = self._climb()
        gradients(replay=True)
        with torch.no_grad():
            for parameter, weight in weights:
                local(parameter).copy_(weight)
            for buffer, kept in zip(self._buffers, buffers, strict=True):
                buffer.copy_(kept)
        apply()
        return loss

    @torch.no_grad()
    def _climb(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Adds e to the weights, sets the gradients free, and returns each parameter with what it was."""
        pairs = gradients_of(self._parameters)
        weights = [(parameter, local(parameter).clone()) for parameter, _ in pairs]
        if self._adaptive:
            for parameter, gradient in pairs:
                local(gradient).mul_(local(parameter).abs() + _ETA)
        norm = self._collect.sum_of_squares([gradient for _, gradient in pairs]).sqrt()
        for parameter, gradient in pairs:
            if self._adaptive:
                local(gradient).mul_(local(parameter).abs() + _ETA)
            local(parameter).add_(local(gradient) * (self._rho / (norm + 1e-12)))
            parameter.grad = None
        return weights
