"""What ranks send to each other in a step, and how long that takes. Arithmetic only; the formulas are in docs/layout-planning.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Traffic:
    """What one rank sends in a step for one purpose.

    bytes     sent by the rank; it receives as many
    messages  that follow each other: the hops of a ring, times the collectives
    ranks     of the group that talks, `stride` ranks apart from each other
    beside    what runs meanwhile: all computation, the backward pass of the last micro-batch, or nothing
    ring      a collective; else messages between two neighbours
    """

    name: str
    bytes: float
    messages: int
    ranks: int
    stride: int
    beside: Literal["computation", "backward", "nothing"]
    ring: bool = True


def all_reduce_traffic(
    name: str, size_bytes: float, calls: int, ranks: int, stride: int, beside: Literal["backward", "nothing"]
) -> Traffic:
    """A ring all-reduce sends 2(n − 1)/n of the `size` bytes that all its `calls` sum up, in 2(n − 1) hops each."""
    return Traffic(name, 2 * (ranks - 1) / ranks * size_bytes, 2 * (ranks - 1) * calls, ranks, stride, beside)


def gather_or_scatter_traffic(
    name: str, size_bytes: float, calls: int, ranks: int, stride: int, beside: Literal["computation", "backward"]
) -> Traffic:
    """A ring all-gather or reduce-scatter sends (n − 1)/n of the `size` bytes of the whole tensors, in n − 1 hops each."""
    return Traffic(name, (ranks - 1) / ranks * size_bytes, (ranks - 1) * calls, ranks, stride, beside)


@dataclass(frozen=True)
class Links:
    """Bandwidths in bytes a second and direction: of a rank within its node, and of its part of the link between nodes."""

    rank_bandwidth: float
    node_bandwidth: float
    ranks_per_node: int
    latency_s: float

    def compute_seconds(self, traffic: Traffic) -> float:
        """bytes / bandwidth + messages · latency."""
        return traffic.bytes / self.compute_bandwidth(traffic) + traffic.messages * self.latency_s

    def compute_bandwidth(self, traffic: Traffic) -> float:
        """That of a rank where the group is within a node; else what its members in one node share of the node's link, if that is less."""
        ranks_in_node = count_node_neighbors(traffic.ranks, traffic.stride, self.ranks_per_node)
        if ranks_in_node == traffic.ranks:
            return self.rank_bandwidth
        return min(self.rank_bandwidth, self.node_bandwidth * (ranks_in_node if traffic.ring else 1))


def count_node_neighbors(ranks: int, stride: int, ranks_per_node: int) -> int:
    """The fewest ranks of a group, `stride` apart, that any node holds together; `ranks` where no group crosses nodes."""
    return max(1, math.gcd(ranks * stride, ranks_per_node) // stride)


@dataclass(frozen=True)
class StepTime:
    """The parts of a step, seconds; their sum is `total`.

    computing  the slowest rank's operations
    blocking   what it waits for within its layers and between stages
    idle       of a pipeline that fills and empties
    exposed    of other traffic, what takes longer than that which runs beside it
    """

    computing: float
    blocking: float
    idle: float
    exposed: float

    @property
    def total(self) -> float:
        return self.computing + self.blocking + self.idle + self.exposed


def estimate_step_time(
    compute_s: float,
    traffic: Sequence[Traffic],
    links: Links | None,
    *,
    stages: int,
    stages_per_rank: int,
    micro_batches: int,
    backward_share: float,
) -> StepTime:
    """The time of a step of a rank that computes for `computing` seconds, of which its backward passes are the part `backward`.

    Without `links` nothing is sent.
    """
    seconds: dict[str, float] = {"computation": 0.0, "backward": 0.0, "nothing": 0.0}
    for transfer in traffic:
        assert links is not None
        seconds[transfer.beside] += links.compute_seconds(transfer)
    blocking_s = seconds["nothing"]
    idle_s = (compute_s + blocking_s) * (stages - 1) / (micro_batches * stages_per_rank)
    gather_s = max(0.0, seconds["computation"] - compute_s)
    reduce_s = max(0.0, seconds["backward"] - backward_share * compute_s / micro_batches)
    return StepTime(compute_s, blocking_s, idle_s, gather_s + reduce_s)
