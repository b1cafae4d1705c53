"""The base class of the choices of `norm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dnntrain.protocols.choice import Method
from dnntrain.protocols.context import Collectives, SingleProcess

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class NormFacts:
    """The decisions of the plan that a normalization layer depends on.

    ranks             number of data ranks
    batch_size        examples of an optimizer step
    micro_batch_size  examples of a forward pass
    accumulation      forward passes of a step
    batch_norms       batch norm layers of the model
    """

    ranks: int
    batch_size: int
    micro_batch_size: int
    accumulation: int
    batch_norms: int


class NormChoice(Method):
    """Normalization layers: kept as the model has them, or converted.

    batch_statistics  whether training normalizes with the statistics of a batch
    joins_ranks       whether those statistics include the examples of other ranks
    """

    batch_statistics: ClassVar[bool] = True
    joins_ranks: ClassVar[bool] = False

    @property
    def kept_block_size(self) -> int:
        """Consecutive examples with statistics of their own, which ranks do not divide if they can help it."""
        return 1

    @property
    def recomputed_batches(self) -> int:
        """Training batches of the first epoch from which an evaluation recomputes statistics."""
        return 0

    def count_smallest_group(self, rank_examples: Sequence[int]) -> int:
        """Return the examples of the smallest group with statistics of its own in a forward pass.

        `rank_examples` are the examples of each rank in the pass, of which at least one is above 0.
        """
        return min(count for count in rank_examples if count)

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Convert the layers of `model` in place and return it.

        Raises ConfigError if there are none.
        """
        return model

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """Convert a newly built `model` to the form that this choice exports."""
        return model

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return notes for the plan.

        Raises ConfigError if the layers cannot work with such batches.
        """
        return ()
