"""Estimate the communication of ranks in a step, and its time.

The module does arithmetic only; docs/layout-planning.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Traffic:
    """The data that one rank sends in a step for one purpose.

    bytes     bytes that the rank sends; it receives as many
    messages  number of consecutive messages: the hops of a ring, times the number of collectives
    ranks     number of ranks of the group
    stride    distance between consecutive ranks of the group
    beside    computation that overlaps with it: all of it, the backward pass of the last
              micro-batch, or nothing
    ring      True for a collective, False for messages between two neighbors
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
    """Return the traffic of ring all-reduces.

    The `calls` collectives have `size_bytes` in total.

    A ring all-reduce over n ranks sends 2(n − 1)/n of its bytes, in 2(n − 1) hops.
    """
    return Traffic(name, 2 * (ranks - 1) / ranks * size_bytes, 2 * (ranks - 1) * calls, ranks, stride, beside)


def gather_or_scatter_traffic(
    name: str,
    size_bytes: float,
    calls: int,
    ranks: int,
    stride: int,
    beside: Literal["computation", "backward", "nothing"],
) -> Traffic:
    """Return the traffic of ring all-gathers or reduce-scatters.

    The `calls` collectives have `size_bytes` in total.

    Each sends (n − 1)/n of the bytes of the full tensors over n ranks, in n − 1 hops.
    """
    return Traffic(name, (ranks - 1) / ranks * size_bytes, (ranks - 1) * calls, ranks, stride, beside)


@dataclass(frozen=True)
class Links:
    """The links between ranks.

    rank_bandwidth  bytes per second and direction of a rank within its node
    node_bandwidth  bytes per second and direction of a rank's share of the link between nodes
    latency_s       latency of a message in seconds
    """

    rank_bandwidth: float
    node_bandwidth: float
    ranks_per_node: int
    latency_s: float

    def compute_seconds(self, traffic: Traffic) -> float:
        """Return bytes / bandwidth + messages · latency."""
        return traffic.bytes / self.compute_bandwidth(traffic) + traffic.messages * self.latency_s

    def compute_bandwidth(self, traffic: Traffic) -> float:
        """Return the bandwidth of a rank for `traffic`, in bytes per second.

        It is the rank's bandwidth if the group is within a node. Else it is the share of the node's
        link that the group's ranks in a node have, if that is less.
        """
        ranks_in_node = count_node_neighbors(traffic.ranks, traffic.stride, self.ranks_per_node)
        if ranks_in_node == traffic.ranks:
            return self.rank_bandwidth
        return min(self.rank_bandwidth, self.node_bandwidth * (ranks_in_node if traffic.ring else 1))


def count_node_neighbors(ranks: int, stride: int, ranks_per_node: int) -> int:
    """Return the smallest number of ranks of a group that share a node.

    The ranks of the group are `stride` apart. The result is `ranks` if no group crosses nodes.
    """
    return max(1, math.gcd(ranks * stride, ranks_per_node) // stride)


@dataclass(frozen=True)
class StepTime:
    """The time of a step in seconds; `total` is the sum of its terms.

    computing  operations of the slowest rank
    blocking   communication within layers and between stages, without overlap
    idle       time in which a pipeline fills and empties
    exposed    time by which other communication exceeds the computation that it overlaps with
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
    """Return the time of a step of a rank that computes for `compute_s` seconds.

    `backward_share` is the share of its backward passes. Without `links`, `traffic` must be empty.
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
