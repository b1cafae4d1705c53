"""Adafactor, by torch.optim.Adafactor.

Shazeer & Stern, "Adaptive learning rates with sublinear memory cost", 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._matrix_views import make_matrix_groups, swap_in_matrix_gradients
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import NonNegative, Positive, Range
from dnntrain.protocols import LayoutRequirement


@dataclass(frozen=True)
class Adafactor(OptimizerChoice):
    """w = w - max(eps, rms(w)) min(lr, 1/√t) u, with u = g / √v.

    The rms of u is cut to clip_threshold; v = row means x column means of g². 1/√t bounds the rate
    whatever the schedule sets. Convolution weights are factored as matrices
    [out, in * height * width].
    """

    lr: Positive = 0.01  # base learning rate, relative to the size of a weight; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # weight decay; biases and norms have none
    beta2_decay: Annotated[
        float, Range(below=0)
    ] = -0.8  # at step t, the second moment takes a fraction t^beta2_decay of the new square
    eps: Positive = 1e-3  # smallest size of a weight that a step is relative to
    clip_threshold: Annotated[float, Range(at_least=1)] = 1.0  # largest root mean square of a step, before lr

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_PARAMETER})
    state_floats_per_parameter: ClassVar[float] = 0.0
    supports_loss_scale: ClassVar[bool] = False

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (
            MatrixAdafactor(
                self.make_param_groups(model, options),
                lr=self.lr,
                beta2_decay=self.beta2_decay,
                eps=(None, self.eps),
                d=self.clip_threshold,
            ),
        )

    def list_uncuttable_parameters(self, model: nn.Module) -> frozenset[str]:
        # The column means of a convolution run over in * height * width.
        return frozenset(name for name, parameter in model.named_parameters() if parameter.ndim == 4)


class MatrixAdafactor(torch.optim.Adafactor):
    """torch's Adafactor over matrix views.

    torch factors the last two dimensions, which saves only a third for a 3x3 convolution.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        view_groups, self._parameter_by_view = make_matrix_groups(groups)
        super().__init__(view_groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step; `closure` is not used."""
        with swap_in_matrix_gradients(self._parameter_by_view):
            super().step()  # type: ignore[no-untyped-call]
        return None
