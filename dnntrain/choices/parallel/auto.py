"""The layout that the size of the model and the memory of a device call for."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Fraction
from dnntrain.distributed.parallel_dims import Degrees, Layout


@dataclass(frozen=True)
class Auto(Layout):
    """Copies on all ranks where the model fits one device; else shards, as few as fit: fewer shards, fewer bytes on the links."""

    headroom: Fraction = 0.2  # part of a device's memory that is left free

    @property
    def stated_ranks(self) -> int | None:
        """No number: all processes that there are."""
        return None

    def build(self, ranks: int) -> Degrees:
        return Degrees(dp=ranks)


def choose(
    ranks: int, state_bytes: float, other_bytes: float, device_bytes: float, headroom: float
) -> tuple[Degrees, str]:
    """(degrees, the reason) for `ranks` devices of `device_bytes`.

    `state_bytes` (weights, gradients, optimizer state) are what sharding divides; `other_bytes` (activations …) stay on each device.
    """
    room = device_bytes * (1 - headroom)
    if ranks == 1:
        return Degrees(), "one process: there is one device"
    if not device_bytes or state_bytes + other_bytes <= room:
        return Degrees(
            dp=ranks
        ), f"ddp on {ranks} ranks: a whole copy needs {_gib(state_bytes + other_bytes)} of {_gib(room)}"
    divisors = [shard for shard in range(2, ranks + 1) if ranks % shard == 0]
    for shard in divisors:
        if state_bytes / shard + other_bytes <= room:
            kind = "fsdp" if shard == ranks else "hsdp"
            return Degrees(dp=ranks // shard, shard=shard), (
                f"{kind}: a copy needs {_gib(state_bytes + other_bytes)} of {_gib(room)}; in {shard} shards it fits"
            )
    return Degrees(
        shard=ranks
    ), f"fsdp on {ranks} ranks: the most that sharding can save; memory may still not be enough"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.3g} GiB"
