"""Turn reduced gradients into new weights: transforms, optimizer steps, gradients released."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dnntrain.protocols import ComputeGradients, GradientStage, GradientTransform, StepLoss

Observe = Callable[[Mapping[str, Tensor]], None]


def run_plain_step(compute_gradients: ComputeGradients, apply: Callable[[], None]) -> StepLoss:
    """Compute the gradients once and apply them once."""
    loss = compute_gradients()
    apply()
    return loss


def build_apply(
    optimizers: Sequence[torch.optim.Optimizer],
    parameters: Sequence[torch.nn.Parameter],
    transforms: Sequence[GradientTransform],
    observe: Observe,
    scaler: torch.amp.GradScaler | None,
    check: Callable[[Sequence[Tensor]], bool] | None = None,
) -> Callable[[], None]:
    """Return the function that turns `.grad` into a step.

    With a scaler, a step whose gradients overflowed is skipped. `check` sees the gradients before
    they are clipped; if it returns False nothing is applied.
    """
    steps = [optimizer.step for optimizer in optimizers]
    penalties = [transform for transform in transforms if transform.stage <= GradientStage.CHECK]
    clips = [transform for transform in transforms if transform.stage > GradientStage.CHECK]
    has_transforms = bool(transforms) or check is not None

    def apply_transforms(stage_transforms: Sequence[GradientTransform], gradients: Sequence[Tensor]) -> None:
        for stage_transform in stage_transforms:
            numbers = stage_transform.apply(gradients)
            if numbers:
                observe(numbers)

    def should_step() -> bool:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        apply_transforms(penalties, gradients)
        if check is not None and not check(gradients):
            return False
        apply_transforms(clips, gradients)
        return True

    def apply() -> None:
        if not has_transforms or should_step():
            for step in steps:
                step()
        for parameter in parameters:
            parameter.grad = None

    def apply_with_scaler() -> None:
        assert scaler is not None
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        try:
            if not has_transforms or should_step():
                for optimizer in optimizers:
                    scaler.step(optimizer)
        finally:
            # Also if the check causes a rollback: the scaler must be updated before it unscales
            # again.
            scaler.update()
        for parameter in parameters:
            parameter.grad = None

    return apply if scaler is None else apply_with_scaler
