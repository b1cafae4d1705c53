"""Depth pruning: whole residual blocks go, those that change their inputs least.

Source: Men et al., "ShortGPT: layers in large language models are more redundant than you expect",
2024.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from dnntrain.choices.prune._find_cut import describe_cost, measure_target
from dnntrain.choices.prune._options import find_divided_models, find_steps
from dnntrain.config.fields import Annotated, Duration, Literal, PositiveInt, Range
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import (
    Batch,
    BuildContext,
    Claim,
    Hooks,
    ModelStage,
    PruneChoice,
    Refusal,
    ReshapeInputs,
    Reshaping,
    Role,
)
from dnntrain.pruning.cut import Cut
from dnntrain.pruning.depth import drop_blocks, measure_influence
from dnntrain.pruning.selection import match_excluded
from dnntrain.pruning.widths import Widths, apply_widths

#: Examples of a forward pass.
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Depth(PruneChoice):
    """Replace residual blocks by the identity until the target is met, and train on.

    The block with the smallest 1 - cos(input, output) goes first.
    """

    ratio: Annotated[float, Range(above=0, below=1)] = 0.3  # share of the target that is removed at least
    target: Literal["params", "flops", "size"] = "flops"  # the cost that ratio is about
    exclude: tuple[str, ...] = ()  # patterns of blocks that stay, such as stages.0.*
    at: Duration = Duration(50, "%")  # time of the cut
    examples: PositiveInt = 256  # training examples on which the blocks are compared

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.LAYER_WEIGHTS, "prune=depth", "use prune=none"),)

    def find_layout_refusals(self, dims: ParallelDims) -> Iterator[Refusal]:
        return find_divided_models("depth", dims, "all blocks")

    def build(self, context: BuildContext) -> Hooks:
        steps = find_steps(self.at, self.at, 1, context, is_several=False)
        assert context.build_model is not None, "the trainer gives a model to every method"
        model, shape = context.build_model(), ModelShape.from_spec(context.spec)
        self._check_reach(model, _find_candidates(model, context), shape)

        def cut(inputs: ReshapeInputs) -> Cut:
            return self.find_cut(inputs, shape)

        return Hooks(reshaping=Reshaping(steps, cut))

    def find_cut(self, inputs: ReshapeInputs, shape: ModelShape) -> Cut:
        """Return the cut that drops the fewest blocks for the target. Raises ConfigError if all are not enough."""
        model = inputs.model
        influence = measure_influence(model, inputs.batches(self.examples, _BATCH_SIZE))
        excluded = match_excluded(self.exclude, model)
        order = sorted((name for name in influence if name not in excluded), key=lambda name: influence[name])
        # Of a network that was cut before the run, fewer blocks are left than `build` saw.
        self._check_reach(model, order, shape)
        goal = measure_target(model, self.target, shape) * (1 - self.ratio)

        def is_enough(count: int) -> bool:
            return measure_target(_drop(model, order[:count]), self.target, shape) <= goal

        names = order[: next(filter(is_enough, range(1, len(order))), len(order))]
        notes = {
            "reason": f"{describe_cost(model, shape)} → {describe_cost(_drop(model, names), shape)}",
            "blocks": ", ".join(names),
        }
        return Cut({}, drop_blocks(inputs.widths, names), notes=notes, dropped=tuple(names))

    def _check_reach(self, model: nn.Module, candidates: Sequence[str], shape: ModelShape) -> None:
        """Raise ConfigError if the target is missed without all blocks that may go."""
        excluded = match_excluded(self.exclude, model)
        names = [name for name in candidates if name not in excluded]
        whole = measure_target(model, self.target, shape)
        reachable = 1 - measure_target(_drop(model, names), self.target, shape) / whole if names else 0.0
        if reachable < self.ratio:
            raise ConfigError(
                f"prune.ratio={self.ratio} cannot be reached: without all {len(names)} blocks whose input and output "
                f"have one shape, {reachable:.2f} of the {self.target} are removed",
                f"use prune.ratio={int(100 * reachable) / 100}, or prune=structured"
                if names
                else "use prune=structured, or a residual network",
            )

    def check_with(self, hooks: Hooks) -> None:
        if hooks.feature_taps or any(item.stage is ModelStage.QUANTIZE for item in hooks.model_transforms):
            raise ConfigError(
                "prune=depth does not support rounding or distillation from inner features in the same run, because "
                "they belong to blocks that may go",
                "prune first, then train the result with init_from=RUN",
            )


def _find_candidates(model: nn.Module, context: BuildContext) -> list[str]:
    """Return the names of the blocks whose input and output have one shape."""
    index = np.arange(1)
    zeros = Batch(context.spec.inputs.make_zeros(1), torch.zeros(1), index, index)
    return list(measure_influence(model, [zeros]))


def _drop(model: nn.Module, names: Sequence[str]) -> nn.Module:
    return apply_widths(copy.deepcopy(model), replace(Widths(), dropped=tuple(names)))
