"""Muon: momentum whose matrices are orthogonalised (Jordan, 2024; torch.optim.Muon), AdamW for everything else.

Hidden weights are matrices: linear weights as they are, convolution weights [out, in, kh, kw] as [out, in * kh * kw], as in the author's
code. The first dimension's head (the last linear layer), biases, norms and embeddings go to AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive, PositiveInt
from dnntrain.optim.groups import parameter_groups


@dataclass(frozen=True)
class Muon:
    """Steps of spectral norm about lr for hidden matrices; AdamW with its own rate for the rest."""

    lr: Positive = 0.02  # base learning rate of the matrices; the schedule multiplies it
    momentum: Fraction = 0.95  # of the matrices
    weight_decay: NonNegative = 0.01  # decoupled, on matrices and on AdamW's weights
    ns_steps: PositiveInt = 5  # Newton-Schulz iterations
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"  # how the rate depends on a matrix's shape
    adam_lr: Positive = 2e-3  # base learning rate of AdamW; the schedule multiplies it too
    beta1: Fraction = 0.9  # AdamW's decay of the mean of gradients
    beta2: Fraction = 0.99  # AdamW's decay of the mean of squared gradients

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        matrices, rest = split_hidden(model)
        adam = torch.optim.AdamW(
            parameter_groups(rest, self.weight_decay), lr=self.adam_lr, betas=(self.beta1, self.beta2), fused=True
        )
        if not matrices:
            return (adam,)
        muon = MatrixMuon(
            matrices,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            ns_steps=self.ns_steps,
            adjust_lr_fn=self.adjust_lr,
        )
        return (muon, adam)


def split_hidden(model: nn.Module) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """(hidden matrices, the rest) as named parameters: weights of linear and convolution layers except the last linear one."""
    last_linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    hidden = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name not in last_linear
    }
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [item for item in named if item[0] in hidden], [item for item in named if item[0] not in hidden]


class MatrixMuon(torch.optim.Muon):
    """torch's Muon over matrix views, so that it also takes convolution weights.

    Each parameter is seen through a two-dimensional parameter that shares its storage; gradients are handed over as views at each step.
    Orthogonalisation does not depend on the order of columns, so a channels-last weight may be flattened in its own order.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], **options: Any) -> None:
        self._pairs = [(parameter, nn.Parameter(_matrix(parameter.detach()))) for _, parameter in named]
        super().__init__([(name, view) for (name, _), (_, view) in zip(named, self._pairs, strict=True)], **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for parameter, view in self._pairs:
            view.grad = None if parameter.grad is None else _matrix(parameter.grad)
        result: float | None = super().step(closure)
        return result


def _matrix(tensor: Tensor) -> Tensor:
    """[out, …] → a view [out, -1], in the order of memory."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(len(tensor), -1)
