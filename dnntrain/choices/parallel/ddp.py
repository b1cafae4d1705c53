"""Train replicas in data parallel, by torch's DistributedDataParallel.

Each rank computes its share of the batch; gradients are summed.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims


@dataclass(frozen=True)
class Ddp(ParallelConfig):
    """Hold the model on every rank, and sum gradients in buckets.

    Buckets are reduced while the backward pass still runs (Li et al., VLDB 2020).
    """

    replicate: PositiveInt | None = (
        None  # replicas of the model, each with its share of the batch; null: the remaining ranks
    )

    def build(self, ranks: int) -> ParallelDims:
        return self.resolve_dims(ranks)
