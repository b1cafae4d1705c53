"""Muon: momentum whose matrices are orthogonalized (Jordan, 2024), AdamW for everything else.

Hidden weights are matrices: linear weights as they are, convolution weights [out, in, kh, kw] as
[out, in * kh * kw], as in the author's code. AdamW steps the head (the last linear layer), biases,
norms and embeddings.

torch.optim.Muon holds the state and the options; only its Newton-Schulz iteration is replaced by an
equal one that is several times cheaper for wide matrices (a [128, 9216] weight is 98 % of
small_cnn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._matrix_views import as_matrix, from_matrix
from dnntrain.choices.optim._param_groups import ParameterOptions, make_param_groups, split_parameters
from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive, PositiveInt
from dnntrain.utils.dtensor import gather_full, local_shard, shard_of


@dataclass(frozen=True)
class Muon(OptimizerChoice):
    """Steps of spectral norm about lr for hidden matrices; AdamW with its own rate for the rest."""

    lr: Positive = 0.1  # base learning rate of the matrices; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # decoupled weight decay of the matrices and of AdamW's weights
    momentum: Fraction = 0.9  # momentum of the matrices, in Nesterov's form
    ns_steps: PositiveInt = 5  # number of Newton-Schulz iterations
    adjust_lr: Literal["original", "match_rms_adamw", "spectral_unclamped"] = (
        "spectral_unclamped"  # how the rate depends on a matrix's shape
    )
    adam_lr: Positive = 3e-3  # base learning rate of AdamW; the schedule multiplies it too
    beta1: Fraction = 0.9  # AdamW's decay of the mean of gradients
    beta2: Fraction = 0.99  # AdamW's decay of the mean of squared gradients
    matmul_dtype: Literal["fp32", "bf16"] = (
        "fp32"  # number format of the last product: fp32 or bf16 (faster; losses of layouts differ by up to 1e-3)
    )

    lr_fields: ClassVar[tuple[str, ...]] = ("lr", "adam_lr")
    state_floats_per_parameter: ClassVar[float] = 1.0
    supports_loss_scale: ClassVar[bool] = False
    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "spectral"

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        options_by_name = options or self.get_parameter_options(model)
        matrices, rest = split_parameters(model.named_parameters(), lambda name: options_by_name[name].hidden)
        optimizers: list[torch.optim.Optimizer] = []
        if groups := make_param_groups(matrices, options_by_name, self.lr):
            muon = MatrixMuon(
                groups,
                lr=self.lr,
                momentum=self.momentum,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust_lr,
                matmul_dtype=torch.bfloat16 if self.matmul_dtype == "bf16" else torch.float32,
            )
            optimizers.append(muon)
        if groups := make_param_groups(rest, options_by_name, self.adam_lr):
            optimizers.append(torch.optim.AdamW(groups, lr=self.adam_lr, betas=(self.beta1, self.beta2), fused=True))
        return tuple(optimizers)


def orthogonalize(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Orthogonalize `matrix` by Newton-Schulz iterations on its small Gram matrix.

    The iteration is torch.optim.Muon's: X ← aX + b(XXᵀ)X + c(XXᵀ)²X from X = M / |M|. Every iterate
    is P(XXᵀ)X with one polynomial P. So only P is iterated, at [rows, rows] for a matrix with fewer
    rows than columns, and multiplied by the matrix once: two passes over the wide matrix instead of
    3 * steps. The Gram matrix needs float32. The last product is in `dtype`; bfloat16 turns
    rounding into steps of 0.4 %, so that layouts differ.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    identity = torch.eye(len(wide), device=matrix.device)
    gram = wide @ wide.T
    squared_norm = gram.diagonal().sum().clamp_min(1e-14)
    # Rounding can leave a vanishing eigenvalue below zero, which would grow in the iteration.
    gram = gram / squared_norm + 1e-6 * identity
    a, b, c = coefficients
    product = None
    for step in range(steps):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        product = polynomial if product is None else polynomial @ product
        if step + 1 < steps:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    result = ((product * squared_norm.rsqrt()).to(dtype) @ wide.to(dtype)).float()
    return result if wide is matrix else result.T


class MatrixMuon(torch.optim.Muon):
    """torch's Muon, also for convolution weights, as matrices, and for sharded parameters.

    Orthogonalization does not depend on the order of columns, so a channels-last weight is
    flattened in its own order. The direction of a sharded parameter is gathered; every rank
    orthogonalizes the whole matrix and keeps its shard. The momentum stays sharded.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        matmul_dtype: torch.dtype = torch.float32,
        adjust_lr_fn: str = "original",
        **options: Any,
    ) -> None:
        # torch checks the options and accepts only matrices, so parameters are added afterward. The
        # rule of the rate is this module's: torch 2.11 does not know all of them.
        super().__init__([nn.Parameter(torch.empty(0, 0))], **options)
        self.param_groups.clear()
        self.defaults["adjust_lr_fn"] = adjust_lr_fn
        self._matmul_dtype = matmul_dtype
        for group in groups:
            self.add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step; `closure` is not used. All ranks that share parameters must call it."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(group, parameter)
        return None

    def _step_parameter(self, group: dict[str, Any], parameter: Tensor) -> None:
        momentum, decay_factor = group["momentum"], 1 - group["lr"] * group["weight_decay"]
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - momentum)
        direction = gather_full(gradient.lerp(buffer, momentum) if group["nesterov"] else buffer)
        matrix = as_matrix(direction)
        update = orthogonalize(matrix, group["ns_coefficients"], group["ns_steps"], self._matmul_dtype)
        local_update = shard_of(from_matrix(update, direction), parameter)
        if decay_factor != 1:
            parameter.mul_(decay_factor)
        local_shard(parameter).add_(
            local_update, alpha=-group["lr"] * compute_shape_factor(group["adjust_lr_fn"], *matrix.shape)
        )


def compute_shape_factor(rule: str, rows: int, columns: int) -> float:
    """Return torch.optim.Muon's factor on the learning rate of a [rows, columns] matrix."""
    factors = {
        "original": math.sqrt(max(1.0, rows / columns)),
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        "spectral_unclamped": math.sqrt(rows / columns),
    }
    return factors[rule]
