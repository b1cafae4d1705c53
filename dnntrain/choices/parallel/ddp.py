"""Train replicas in data parallel, by torch's DistributedDataParallel.

Each rank computes its share of the batch; gradients are summed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims
from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting

#: Sizes of buckets that may be faster: small ones are sent early, large ones have less overhead.
_BUCKET_SIZES_MB = (25.0, 5.0, 1.0)


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

    def list_speed_settings(self, facts: SpeedFacts) -> Iterable[SpeedSetting]:
        """Return other sizes of buckets, and gradients of two bytes between ranks."""
        if facts.ranks == 1:
            return ()
        sizes = tuple(f"{size:g}" for size in _BUCKET_SIZES_MB if size != self.bucket_size_mb)
        formats = ("bf16",) if self.grad_compression == "none" else ()
        return (
            SpeedSetting("parallel.bucket_size_mb", SpeedGrade.ROUNDING, sizes),
            SpeedSetting("parallel.grad_compression", SpeedGrade.STATISTICAL, formats),
        )
