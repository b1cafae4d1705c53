"""The values of a planned run in one process that every builder of the trainer reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import RankCoords
from dnntrain.input.prepared import PreparedData
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Hooks, LateCollectives
from dnntrain.utils.hardware import get_device_type
from dnntrain.utils.world import World


@dataclass(frozen=True)
class RunSetup:
    """Hold the values that a trainer is built from.

    config, plan    the settings, and the decisions made from them
    data            the data set and the numbers of the examples of each split
    hooks           the hooks of the chosen methods, built once for this process
    collectives     the collectives of the methods; the trainer connects them to the ranks
    world, device   this process among the ranks, and its torch device
    start_step      the number of steps before this trainer begins
    """

    config: RunConfig
    plan: Plan
    data: PreparedData
    hooks: Hooks
    collectives: LateCollectives
    world: World
    device: str
    start_step: int = 0

    @property
    def _is_before_unfreezing(self) -> bool:
        return self.plan.unfreeze_step is None or self.start_step < self.plan.unfreeze_step

    @property
    def frozen_patterns(self) -> tuple[str, ...]:
        """The patterns of parameters that this trainer keeps frozen."""
        return self.config.train.freeze if self._is_before_unfreezing else ()

    @property
    def pause_step(self) -> int:
        """The step at which another trainer takes over; 0 if this one trains to the end."""
        return (self.plan.unfreeze_step or 0) if self._is_before_unfreezing else 0

    @property
    def coords(self) -> RankCoords:
        """The place of this rank in the device mesh."""
        return self.plan.degrees.locate_rank(self.world)

    @property
    def device_type(self) -> str:
        """The device without its number: cpu, cuda or mps."""
        return get_device_type(self.device)

    @property
    def autocast(self) -> torch.dtype | None:
        """The data type of matrix products, or None."""
        return self.plan.precision.torch_dtype


def build_unfilled_model(config: RunConfig, shape: ModelShape, hooks: Hooks | None = None) -> nn.Module:
    """Build the model with weights of zero; with `hooks`, apply their model transforms."""
    model = build_with_zero_weights(lambda: config.model.build(shape))
    return model if hooks is None else apply_model_transforms(model, hooks)


def apply_model_transforms(model: nn.Module, hooks: Hooks) -> nn.Module:
    """Apply the transforms in the order of their stages."""
    for transform in hooks.model_transforms:
        model = transform.apply(model)
    return model
