"""Masks: weights that stay zero, in a network of unchanged shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.protocols import Hooks, StepInfo, TrainerHandles
from dnntrain.pruning.selection import match_excluded

#: Masks of named weights, 1 where a weight stays, for the ratio of a step.
MakeMasks = Callable[[Mapping[str, Tensor], float], Mapping[str, Tensor]]


class WeightMasks:
    """Set weights to zero from given steps on, and keep them zero.

    At each of `steps` the masks are made again, with the ratio of that step. Weights that are zero
    already stay so, because they are the smallest.
    """

    def __init__(self, steps: Sequence[int], ratios: Sequence[float], exclude: Sequence[str], make: MakeMasks) -> None:
        self._steps, self._ratios, self._exclude, self._make = steps, ratios, exclude, make
        self._done = 0
        self._weights: dict[str, nn.Parameter] = {}
        self._masks: dict[str, Tensor] = {}

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of completed steps, at least 1, after which more weights are zero."""
        return tuple(sorted({max(step, 1) for step in self._steps}))

    def bind(self, handles: TrainerHandles) -> None:
        self._weights = select_weights(handles.model, self._exclude)
        self._masks = {name: torch.ones_like(weight, dtype=torch.uint8) for name, weight in self._weights.items()}

    @torch.no_grad()
    def __call__(self, step_info: StepInfo) -> None:
        completed = step_info.step + 1
        while self._done < len(self._steps) and completed >= self._steps[self._done]:
            masks = self._make(self._weights, self._ratios[self._done])
            for name, mask in masks.items():
                self._masks[name].copy_(mask)
            self._done += 1
        if self._done:
            for name, weight in self._weights.items():
                weight.mul_(self._masks[name])

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "masks": dict(self._masks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._done = int(state["done"])
        for name, mask in self._masks.items():
            mask.copy_(state["masks"][name])


def make_mask_hooks(masks: WeightMasks) -> Hooks:
    """Return the hooks of masks."""
    return Hooks(
        after_step_hooks=(masks,),
        bindings=(masks.bind,),
        state={"weight_masks": masks},
        mask_steps=masks.steps,
    )


def select_weights(model: nn.Module, exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the weights of linear layers and convolutions by name, without excluded modules.

    Raises ConfigError for a pattern that matches no module.
    """
    excluded = match_excluded(exclude, model)
    weights: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if name not in excluded and isinstance(module, nn.Linear | nn.Conv2d):
            with suppress(AttributeError):
                weights[f"{name}.weight"] = module.get_parameter("weight")
    return weights


def check_no_average(name: str, hooks: Hooks) -> None:
    """Raise ConfigError if other weights than the masked ones are evaluated."""
    if any(weights.replaces == "weights" for weights in hooks.eval_weights):
        raise ConfigError(
            f"prune={name} does not support averages of the weights, because an average of weights from before and "
            "after has none that are zero",
            "leave average and optim=schedule_free out, or use prune=structured",
        )
