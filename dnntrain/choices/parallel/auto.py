"""Select a layout by the size of the model and the memory of a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Fraction
from dnntrain.distributed.parallel_dims import MESH_DIMS, ParallelConfig, ParallelDims
from dnntrain.protocols import DeviceDemand, Refusal, RunFacts


@dataclass(frozen=True)
class Auto(ParallelConfig):
    """Use replicas if the model fits on one device, else as few shards as fit.

    Fewer shards send fewer bytes between ranks.
    """

    chooses_degrees: ClassVar[bool] = True

    headroom: Fraction = 0.2  # fraction of a device's memory that is left free

    @property
    def required_ranks(self) -> int | None:
        """Return None: the layout uses all processes."""
        return None

    def build(self, ranks: int) -> ParallelDims:
        return ParallelDims(replicate=ranks)

    def fit(self, ranks: int, demand: DeviceDemand) -> tuple[ParallelDims, str]:
        return choose_parallel_dims(ranks, demand.state, demand.other, demand.memory, self.headroom)

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        for name, degree in self.get_changed_options().items():
            if name in MESH_DIMS:
                yield Refusal(
                    f"parallel=auto does not support parallel.{name}={degree}, because it chooses the layout itself",
                    f"leave parallel.{name} out, or use parallel=ddp parallel.{name}={degree}",
                )
                return


def choose_parallel_dims(
    ranks: int, state_bytes: float, other_bytes: float, device_bytes: float, headroom: float
) -> tuple[ParallelDims, str]:
    """Return the parallel dimensions for `ranks` devices, and the reason.

    Sharding divides `state_bytes` (weights, gradients, optimizer state). `other_bytes` (activations
    …) stay on each device, which has `device_bytes`.
    """
    usable_bytes = device_bytes * (1 - headroom)
    if ranks == 1:
        return ParallelDims(), "one process: there is one device"
    if not device_bytes or state_bytes + other_bytes <= usable_bytes:
        return (
            ParallelDims(replicate=ranks),
            f"ddp on {ranks} ranks: a whole copy needs "
            f"{_format_gib(state_bytes + other_bytes)} of {_format_gib(usable_bytes)}",
        )
    divisors = [shard for shard in range(2, ranks + 1) if ranks % shard == 0]
    for shard in divisors:
        if state_bytes / shard + other_bytes <= usable_bytes:
            kind = "fsdp" if shard == ranks else "hsdp"
            return ParallelDims(replicate=ranks // shard, shard=shard), (
                f"{kind}: a copy needs {_format_gib(state_bytes + other_bytes)} of {_format_gib(usable_bytes)}; "
                f"in {shard} shards it fits"
            )
    return ParallelDims(
        shard=ranks
    ), f"fsdp on {ranks} ranks: the most that sharding can save; memory may still not be enough"


def _format_gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.3g} GiB"
