"""From gradients to new weights: the global reduction is done; transforms, the optimizers' steps, and gradients set free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dnntrain.protocols import Gradients, GradientStage, GradientTransform, StepLoss

Observe = Callable[[Mapping[str, Tensor]], None]


def plain(gradients: Gradients, apply: Callable[[], None]) -> StepLoss:
    """One pass, one step."""
    loss = gradients()
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
    """The function that turns `.grad` into a step. With a scaler, a step whose gradients overflowed is left out.

    `check` sees the gradients before they are clipped; where it says False nothing is applied.
    """
    steps = [optimizer.step for optimizer in optimizers]
    penalties = [item for item in transforms if item.stage <= GradientStage.CHECK]
    clips = [item for item in transforms if item.stage > GradientStage.CHECK]
    touched = bool(transforms) or check is not None

    def run(items: Sequence[GradientTransform], gradients: Sequence[Tensor]) -> None:
        for item in items:
            numbers = item.apply(gradients)
            if numbers:
                observe(numbers)

    def passed() -> bool:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        run(penalties, gradients)
        if check is not None and not check(gradients):
            return False
        run(clips, gradients)
        return True

    def apply() -> None:
        if not touched or passed():
            for step in steps:
                step()
        for parameter in parameters:
            parameter.grad = None

    def scaled_apply() -> None:
        assert scaler is not None
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        try:
            if not touched or passed():
                for optimizer in optimizers:
                    scaler.step(optimizer)
        finally:
            # Also where the check makes the run go back: the scaler unscales no second time before it is updated.
            scaler.update()
        for parameter in parameters:
            parameter.grad = None

    return apply if scaler is None else scaled_apply
