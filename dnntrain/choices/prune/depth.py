"""Depth pruning: whole residual blocks go, those that change their inputs least.

Source: Men et al., "ShortGPT: layers in large language models are more redundant than you expect",
2024.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from dnntrain.choices.prune._find_cut import describe_cost, measure_target
from dnntrain.choices.prune._options import find_steps
from dnntrain.config.fields import Annotated, Duration, Literal, PositiveInt, Range
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Hooks,
    ModelStage,
    PruneChoice,
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

    def build(self, context: BuildContext) -> Hooks:
        steps = find_steps(self.at, self.at, 1, context, is_several=False)
        shape = ModelShape.from_spec(context.spec)

        def cut(inputs: ReshapeInputs) -> Cut:
            return self._find_cut(inputs, shape)

        def check(model: nn.Module) -> frozenset[str]:
            self._find_limit(model, self._rank_blocks(model, [shape.make_zeros(2)]), shape)
            return frozenset()

        return Hooks(reshaping=Reshaping(steps, cut, check))

    def _find_cut(self, inputs: ReshapeInputs, shape: ModelShape) -> Cut:
        """Return the cut that drops the fewest blocks for the target. Raises ConfigError if none is enough."""
        model = inputs.model
        batches = inputs.batches(self.examples, _BATCH_SIZE)
        order = self._rank_blocks(model, (batch.inputs for batch in batches))
        limit = self._find_limit(model, order, shape)
        counts = range(1, len(order) + 1)
        names = next(
            order[:count]
            for count in counts
            if measure_target(_drop(model, order[:count]), self.target, shape) <= limit
        )
        notes = {
            "reason": f"{describe_cost(model, shape)} → {describe_cost(_drop(model, names), shape)}",
            "blocks": ", ".join(names),
        }
        return Cut({}, drop_blocks(inputs.widths, names), notes=notes, dropped=tuple(names))

    def _rank_blocks(self, model: nn.Module, batches: Iterable[Tensor]) -> list[str]:
        """Return the names of the blocks that may go, the least important one first."""
        excluded = match_excluded(self.exclude, model)
        influence = measure_influence(model, batches)
        return sorted((name for name in influence if name not in excluded), key=lambda name: influence[name])

    def _find_limit(self, model: nn.Module, names: Sequence[str], shape: ModelShape) -> float:
        """Return the cost that the target allows.

        Raises ConfigError, with the largest ratio, if it cannot be reached without the blocks `names`.
        """
        whole = measure_target(model, self.target, shape)
        limit, smallest = (1 - self.ratio) * whole, measure_target(_drop(model, names), self.target, shape)
        if smallest > limit:
            reachable = 1 - smallest / whole
            raise ConfigError(
                f"prune.ratio={self.ratio} cannot be reached: without all {len(names)} blocks whose input and output "
                f"have one shape, {reachable:.2f} of the {self.target} are removed",
                f"use prune.ratio={int(100 * reachable) / 100}, or prune=structured"
                if names
                else "use prune=structured, or a residual network",
            )
        return limit

    def check_with(self, hooks: Hooks) -> None:
        if hooks.feature_taps or any(item.stage is ModelStage.QUANTIZE for item in hooks.model_transforms):
            raise ConfigError(
                "prune=depth does not support rounding or distillation from inner features in the same run, because "
                "they belong to blocks that may go",
                "prune first, then train the result with init_from=RUN",
            )


def _drop(model: nn.Module, names: Sequence[str]) -> nn.Module:
    return apply_widths(copy.deepcopy(model), replace(Widths(), dropped=tuple(names)))
