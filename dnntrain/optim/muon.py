"""Muon: momentum whose matrices are orthogonalised (Jordan, 2024), AdamW for everything else.

Hidden weights are matrices: linear weights as they are, convolution weights [out, in, kh, kw] as [out, in * kh * kw], as in the author's
code. The head (the last linear layer), biases, norms and embeddings go to AdamW.

torch.optim.Muon holds the state and the knobs; only its Newton-Schulz iteration is replaced by an equal one that is several times cheaper
for wide matrices (a [128, 9216] weight is 98 % of seed_cnn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive, PositiveInt
from dnntrain.optim.base import OptimizerChoice
from dnntrain.optim.groups import Setting, parameter_groups, split
from dnntrain.optim.matrices import matrix_gradient, matrix_groups
from dnntrain.protocols import Need


@dataclass(frozen=True)
class Muon(OptimizerChoice):
    """Steps of spectral norm about lr for hidden matrices; AdamW with its own rate for the rest."""

    lr: Positive = 0.1  # base learning rate of the matrices; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # decoupled, on matrices and on AdamW's weights
    momentum: Fraction = 0.9  # of the matrices, in Nesterov's form
    ns_steps: PositiveInt = 5  # Newton-Schulz iterations
    adjust_lr: Literal["original", "match_rms_adamw", "spectral_unclamped"] = (
        "spectral_unclamped"  # by a matrix's shape
    )
    adam_lr: Positive = 3e-3  # base learning rate of AdamW; the schedule multiplies it too
    beta1: Fraction = 0.9  # AdamW's decay of the mean of gradients
    beta2: Fraction = 0.99  # AdamW's decay of the mean of squared gradients

    needs: ClassVar[frozenset[Need]] = frozenset({Need.WHOLE_PARAMETER})
    rates: ClassVar[tuple[str, ...]] = ("lr", "adam_lr")
    state_numbers: ClassVar[float] = 1.0
    takes_loss_scale: ClassVar[bool] = False

    def build(
        self, model: nn.Module, settings: Mapping[str, Setting] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        known = settings or self.settings(model)
        matrices, rest = split(model.named_parameters(), lambda name: known[name].hidden)
        optimizers: list[torch.optim.Optimizer] = []
        if groups := parameter_groups(matrices, known, self.lr):
            muon = MatrixMuon(
                groups,
                lr=self.lr,
                momentum=self.momentum,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust_lr,
            )
            optimizers.append(muon)
        if groups := parameter_groups(rest, known, self.adam_lr):
            optimizers.append(torch.optim.AdamW(groups, lr=self.adam_lr, betas=(self.beta1, self.beta2), fused=True))
        return tuple(optimizers)


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """The Newton-Schulz iteration of torch.optim.Muon, X ← aX + b(XXᵀ)X + c(XXᵀ)²X from X = M / |M|, worked out on the small Gram matrix.

    Every iterate is P(XXᵀ)X with one polynomial P, so P alone is iterated, at [rows, rows] for a matrix with fewer rows than columns, and
    multiplied by the matrix once: two passes over the wide matrix instead of 3 * steps. Float32, as the Gram matrix needs it.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    identity = torch.eye(len(wide), device=matrix.device)
    gram = wide @ wide.T
    squared_norm = gram.diagonal().sum().clamp_min(1e-14)
    # Rounding can leave a vanishing eigenvalue below zero, which the iteration would blow up.
    gram = gram / squared_norm + 1e-6 * identity
    a, b, c = coefficients
    product = None
    for step in range(steps):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        product = polynomial if product is None else polynomial @ product
        if step + 1 < steps:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    result = (product * squared_norm.rsqrt()).bfloat16() @ wide.bfloat16()
    return (result if wide is matrix else result.T).float()


class MatrixMuon(torch.optim.Muon):
    """torch's Muon over matrix views, so that it also takes convolution weights.

    Each parameter is seen through a two-dimensional parameter that shares its storage. Orthogonalisation does not depend on the order of
    columns, so a channels-last weight may be flattened in its own order.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        viewed, self._owners = matrix_groups(groups)
        super().__init__(viewed, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` is not used."""
        for group in self.param_groups:
            for view in group["params"]:
                if self._owners[view].grad is not None:
                    self._step(group, view, matrix_gradient(self._owners[view]))
        return None

    def _step(self, group: dict[str, Any], view: Tensor, gradient: Tensor) -> None:
        keep, decay = group["momentum"], 1 - group["lr"] * group["weight_decay"]
        state = self.state[view]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(view)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - keep)
        direction = gradient.lerp(buffer, keep) if group["nesterov"] else buffer
        update = orthogonalised(direction, group["ns_coefficients"], group["ns_steps"])
        if decay != 1:
            view.mul_(decay)
        view.add_(update, alpha=-group["lr"] * shape_factor(group["adjust_lr_fn"], *view.shape))


def shape_factor(rule: str, rows: int, columns: int) -> float:
    """What torch.optim.Muon multiplies the learning rate of a [rows, columns] matrix with."""
    factors = {
        "original": math.sqrt(max(1.0, rows / columns)),
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        "spectral_unclamped": math.sqrt(rows / columns),
    }
    return factors[rule]
