"""Schedule-free AdamW (Defazio et al., "The road less scheduled", 2024).

There are three points: z takes the steps, x is the average of all z so far, and gradients are taken
at y between them. The model holds y while it is trained, and x while it is evaluated, exported or
averaged.

The package schedulefree is not used because it keeps step counts and sums in parameter groups, and
computes x from y and y from x: an evaluation then changes the last bits of the weights, and a
resumed run differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import Annotated, Fraction, Literal, NonNegative, Positive, Range
from dnntrain.protocols import BuildContext, Claim, Hooks, Role, TrainerHandles


@dataclass(frozen=True)
class ScheduleFree(OptimizerChoice):
    """z = z - lr (g(y) / (√v̂ + eps) + weight_decay y), with y = (1 - β1) z + β1 x.

    The average is x = (1 - c) x + c z, with c = lr_max² / Σ lr_max².
    """

    lr: Positive = 2.5e-3  # base learning rate; use a warm-up, but no decay
    weight_decay: NonNegative = (
        0.0  # weight decay at the point where gradients are computed; biases and norms have none
    )
    beta1: Annotated[float, Range(above=0, below=1)] = (
        0.9  # weight of the average in the point where gradients are computed
    )
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-8  # added to the root of the second moment

    claimed_roles: ClassVar[tuple[str, ...]] = ("EVAL_WEIGHTS",)
    supports_unfreezing: ClassVar[bool] = False
    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "elementwise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoupled_weight_decay:
            raise ValueError(
                "decoupled_weight_decay would shrink the average and not the weights that take the steps; "
                "leave it out: weight_decay is that of the paper"
            )

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.EVAL_WEIGHTS, "optim=schedule_free", "use optim=adamw"),)

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        return (ScheduleFreeAdamW(self.make_param_groups(model, options), self.lr, (self.beta1, self.beta2), self.eps),)

    def build_hooks(self, context: BuildContext) -> Hooks:
        average_weights = AverageWeights()
        own_hooks = Hooks(
            eval_weights=(average_weights,), state={"schedule_free": average_weights}, bindings=(average_weights.bind,)
        )
        return Hooks.merge([super().build_hooks(context), own_hooks])


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Optimizer with the state `z` and `exp_avg_sq` for each parameter, in its shape.

    x is not stored; it is y + (1 - 1/β1) (z - y). `progress` holds the numbers that all parameters
    share: steps done, the largest rate so far, the sum of its squares, and the β1 that y was
    computed with. Steps are elementwise, so parameters may be shards.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "lr_scale": 1.0})
        self.progress = {"steps": 0, "largest_rate": 0.0, "weight_sum": 0.0, "beta1": betas[0]}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step; `closure` is not used."""
        progress = self.progress
        first_group = self.param_groups[0]
        progress["steps"] += 1
        progress["largest_rate"] = max(progress["largest_rate"], first_group["lr"] / first_group["lr_scale"])
        weight = progress["largest_rate"] ** 2
        progress["weight_sum"] += weight
        share = weight / progress["weight_sum"] if progress["weight_sum"] else 0.0
        for group in self.param_groups:
            self._step_group(group, share)
        progress["beta1"] = first_group["betas"][0]
        return None

    def _step_group(self, group: dict[str, Any], share: float) -> None:
        points = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not points:
            return
        for parameter in points:
            if not self.state[parameter]:
                self.state[parameter] = {"z": parameter.clone(), "exp_avg_sq": torch.zeros_like(parameter)}
        gradients = [parameter.grad for parameter in points]
        z = [self.state[parameter]["z"] for parameter in points]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in points]
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        roots = torch._foreach_sqrt(torch._foreach_div(squares, 1 - beta2 ** self.progress["steps"]))
        torch._foreach_add_(roots, group["eps"])
        step = torch._foreach_div(gradients, roots)
        if group["weight_decay"]:
            torch._foreach_add_(step, points, alpha=group["weight_decay"])
        torch._foreach_lerp_(points, z, 1 - 1 / self.progress["beta1"])  # y → x
        torch._foreach_add_(z, step, alpha=-group["lr"])
        torch._foreach_lerp_(points, z, share)  # the new x
        torch._foreach_lerp_(points, z, 1 - beta1)  # the new y

    def compute_averages(self) -> dict[Tensor, Tensor]:
        """Return {parameter: x} of all parameters that have been stepped."""
        weight = 1 - 1 / self.progress["beta1"]
        return {
            parameter: torch.lerp(parameter.detach(), state["z"], weight) for parameter, state in self.state.items()
        }


class AverageWeights:
    """Swap x in for y in the model; the state is the shared numbers of the average."""

    replaces = "weights"

    def __init__(self) -> None:
        self._optimizers: list[ScheduleFreeAdamW] = []

    def bind(self, handles: TrainerHandles) -> None:
        self._optimizers = [item for item in handles.optimizers if isinstance(item, ScheduleFreeAdamW)]

    @contextmanager
    def swap_in(self, model: nn.Module) -> Iterator[None]:
        averages = {
            item: average for optimizer in self._optimizers for item, average in optimizer.compute_averages().items()
        }
        training_values = {parameter: parameter.detach().clone() for parameter in averages}
        _copy_values(averages)
        try:
            yield
        finally:
            _copy_values(training_values)  # copied, not computed: y must not change by a bit

    def state_dict(self) -> dict[str, Any]:
        return dict(self._optimizers[0].progress)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for optimizer in self._optimizers:
            optimizer.progress.update(state)


@torch.no_grad()
def _copy_values(values: Mapping[Tensor, Tensor]) -> None:
    for parameter, value in values.items():
        parameter.copy_(value)
