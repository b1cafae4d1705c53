"""Gradient clipping by norm or by value, or adaptively.

By norm: Pascanu et al., 2013; adaptively: Brock et al., 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnntrain.config.fields import Literal, Positive
from dnntrain.nn.weight_selection import get_gradients
from dnntrain.protocols import (
    BuildContext,
    Collectives,
    GradientStage,
    GradientTransform,
    Hooks,
    ModelStage,
    ModelTransform,
    RegChoice,
    TrainerHandles,
)
from dnntrain.utils.dtensor import local_shard

#: Smallest norm of weights that counts (Brock et al., "High-performance large-scale image recognition without
#: normalization", section 4.1).
_MIN_NORM = 1e-3


@dataclass(frozen=True)
class GradClip(RegChoice):
    """Clip gradients by norm, by value, or adaptively.

    norm      scale all gradients so that their global L2 norm is at most the limit
    value     cut each number to [-limit, limit]
    adaptive  scale the gradient of each unit (row of a weight) to at most the limit times the norm
              of its weights; not in the last layer
    """

    mode: Literal["norm", "value", "adaptive"] = (
        "norm"  # norm (global norm), value (each value) or adaptive (each unit against its weights)
    )
    max: Positive | None = None  # largest norm, value or ratio; null: 1 for norm and value, 0.01 for adaptive

    def build(self, context: BuildContext) -> Hooks:
        limit = self.max or (0.01 if self.mode == "adaptive" else 1.0)
        if self.mode == "norm":
            return Hooks(gradient_transforms=(clip_by_norm(limit, context.collectives),))
        if self.mode == "value":
            return Hooks(gradient_transforms=(clip_by_value(limit),))
        adaptive = AdaptiveClip(limit)
        return Hooks(
            gradient_transforms=(GradientTransform(GradientStage.CLIP, adaptive),),
            model_transforms=(adaptive.survey_transform,),
            bindings=(adaptive.bind,),
        )


def clip_by_norm(max_norm: float, collect: Collectives) -> GradientTransform:
    """Scale all gradients so that their global L2 norm is at most `max_norm`.

    The norm before clipping is logged.
    """

    def clip(gradients: Sequence[Tensor]) -> Mapping[str, Tensor]:
        norm = collect.sum_of_squares(gradients).sqrt()
        factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for gradient in gradients:
            local_shard(gradient).mul_(factor)
        return {"grad_norm": norm}

    return GradientTransform(GradientStage.CLIP, clip)


def clip_by_value(limit: float) -> GradientTransform:
    """Cut every number of the gradients to [-limit, limit]."""

    def clip(gradients: Sequence[Tensor]) -> None:
        for gradient in gradients:
            local_shard(gradient).clamp_(-limit, limit)

    return GradientTransform(GradientStage.CLIP, clip)


class AdaptiveClip:
    """Scale each unit's gradient to at most `limit` times the norm of its weights.

    The last linear layer is not clipped, as in the paper.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last_layer = ""
        self._parameters: list[nn.Parameter] = []

    @property
    def survey_transform(self) -> ModelTransform:
        """Return a transform that finds the last layer and does not change the model.

        It sees the whole model, of which a rank may hold only a part later.
        """
        return ModelTransform(ModelStage.QUANTIZE, self._find_last_layer)

    def bind(self, handles: TrainerHandles) -> None:
        named = handles.model.named_parameters()
        self._parameters = [parameter for name, parameter in named if name.rpartition(".")[0] != self._last_layer]

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in get_gradients(self._parameters):
            max_norms = compute_unit_norms(parameter.detach()).clamp(min=_MIN_NORM) * self._limit
            gradient_norms = compute_unit_norms(gradient)
            gradient.mul_(torch.where(gradient_norms < max_norms, 1.0, max_norms / gradient_norms.clamp(min=1e-6)))

    def _find_last_layer(self, model: nn.Module) -> nn.Module:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        self._last_layer = linear[-1] if linear else ""
        return model


def compute_unit_norms(tensor: Tensor) -> Tensor:
    """Return the L2 norm of each row of a weight [units, …] as [units, 1, …].

    A vector has one norm.
    """
    rows = tuple(range(1, tensor.ndim)) or None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=rows, keepdim=rows is not None)
    return norms
