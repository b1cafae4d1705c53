"""Adafactor (Shazeer & Stern, "Adaptive learning rates with sublinear memory cost", 2018; torch.optim.Adafactor)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._matrix_views import matrix_gradients, matrix_groups
from dnntrain.choices.optim._param_groups import Setting
from dnntrain.config.fields import NonNegative, Positive, Range
from dnntrain.protocols import Need


@dataclass(frozen=True)
class Adafactor(OptimizerChoice):
    """w = w - max(eps, rms(w)) min(lr, 1/√t) u, with u = g / √v, its rms cut to clip_threshold; v = row means x column means of g².

    1/√t bounds the rate whatever the schedule says. Convolution weights are factored as matrices
    [out, in * height * width].
    """

    lr: Positive = 0.01  # base learning rate, relative to the size of a weight; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # on weights; biases and norms have none
    beta2_decay: Annotated[
        float, Range(below=0)
    ] = -0.8  # at step t the second mean takes a share t^beta2_decay of the new square
    eps: Positive = 1e-3  # least size of a weight that a step is relative to
    clip_threshold: Annotated[float, Range(at_least=1)] = 1.0  # largest root mean square of a step before lr

    needs: ClassVar[frozenset[Need]] = frozenset({Need.WHOLE_PARAMETER})
    state_numbers: ClassVar[float] = 0.0
    takes_loss_scale: ClassVar[bool] = False

    def build(
        self, model: nn.Module, settings: Mapping[str, Setting] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (
            MatrixAdafactor(
                self.grouped(model, settings),
                lr=self.lr,
                beta2_decay=self.beta2_decay,
                eps=(None, self.eps),
                d=self.clip_threshold,
            ),
        )


class MatrixAdafactor(torch.optim.Adafactor):
    """torch's Adafactor over matrix views: it factors the last two dimensions, which of a 3x3 convolution saves a third only."""

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        viewed, self._owners = matrix_groups(groups)
        super().__init__(viewed, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` is not used."""
        with matrix_gradients(self._owners):
            super().step()  # type: ignore[no-untyped-call]
        return None
