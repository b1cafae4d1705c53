"""Sharpness-aware minimization (Foret et al., 2021) and ASAM, its scale-invariant form.

Kwon et al., "ASAM", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnntrain.config.fields import Positive
from dnntrain.nn.weight_selection import get_gradients
from dnntrain.protocols import (
    BuildContext,
    ComputeGradients,
    Hooks,
    LayoutRequirement,
    RegChoice,
    StepLoss,
    TrainerHandles,
)
from dnntrain.utils.dtensor import local_shard

#: Added to the sizes of weights in the adaptive form (eta of Kwon et al., section 4).
_ETA = 0.01

#: Parameters that the adaptive form scales have this in their own name, as in the authors' code (SamsungLabs/ASAM).
_SCALED_NAME = "weight"


@dataclass(frozen=True)
class Sam(RegChoice):
    """Take each step with the gradient at w + e, with e = rho * g / |g|.

    There the loss is about the largest within rho of w. Adaptive: e = rho * t² g / |t g| with
    t = |w| + 0.01, elementwise, for parameters called weight, and t = 1 for biases and others, as
    in the authors' code. Each step computes the gradient twice.
    """

    rho: Positive = 0.05  # radius of the neighborhood; about ten times larger for the adaptive form
    adaptive: bool = False  # true: ASAM, the neighborhood scales with the weights, but not with biases

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.SECOND_PASS})

    def build(self, context: BuildContext) -> Hooks:
        step = SharpnessAwareStep(self.rho, self.adaptive)
        return Hooks(optimizer_step=step, bindings=(step.bind,))


class SharpnessAwareStep:
    """Do two passes over the same batch with the same random numbers.

    Buffers, such as running statistics, keep their values of the first pass.
    """

    def __init__(self, rho: float, adaptive: bool) -> None:
        self._rho, self._adaptive = rho, adaptive
        self._parameters: list[nn.Parameter] = []
        self._scaled: set[int] = set()
        self._buffers: list[Tensor] = []

    def bind(self, handles: TrainerHandles) -> None:
        named = [item for item in handles.model.named_parameters() if item[1].requires_grad]
        self._parameters = [parameter for _, parameter in named]
        self._scaled = {id(parameter) for name, parameter in named if self._adaptive and is_scaled(name)}
        self._buffers = list(handles.model.buffers())
        self._collect = handles.collectives

    def __call__(self, compute_gradients: ComputeGradients, apply: Callable[[], None]) -> StepLoss:
        loss = compute_gradients()
        buffers = [buffer.clone() for buffer in self._buffers]
        weights = self._perturb_weights()
        compute_gradients(replay=True)
        with torch.no_grad():
            for parameter, weight in weights:
                local_shard(parameter).copy_(weight)
            for buffer, original in zip(self._buffers, buffers, strict=True):
                buffer.copy_(original)
        apply()
        return loss

    @torch.no_grad()
    def _perturb_weights(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Add e to the weights and free the gradients; return (parameter, old value) pairs."""
        pairs = get_gradients(self._parameters)
        weights = [(parameter, local_shard(parameter).clone()) for parameter, _ in pairs]
        for parameter, gradient in pairs:
            if id(parameter) in self._scaled:
                local_shard(gradient).mul_(local_shard(parameter).abs() + _ETA)
        norm = self._collect.sum_of_squares([gradient for _, gradient in pairs]).sqrt()
        for parameter, gradient in pairs:
            if id(parameter) in self._scaled:
                local_shard(gradient).mul_(local_shard(parameter).abs() + _ETA)
            local_shard(parameter).add_(local_shard(gradient) * (self._rho / (norm + 1e-12)))
            parameter.grad = None
        return weights


def is_scaled(name: str) -> bool:
    """Return whether the adaptive form scales the parameter called `name` in its model.

    These are weights of layers and gains of normalizations, also in a parametrization
    (`conv.parametrizations.weight.original`), but not biases, tokens and position embeddings.
    """
    parts = name.split(".")
    own_name = parts[-2] if len(parts) > 2 and parts[-3] == "parametrizations" else parts[-1]
    return _SCALED_NAME in own_name
