"""Processes on this machine, started by torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Annotated, Duration, NonNegative, NonNegativeInt, Positive, PositiveInt, Range, Units
from dnntrain.protocols import LaunchChoice


@dataclass(frozen=True)
class LocalLaunch(LaunchChoice):
    """`nproc` processes where the layout wants more than one: one per accelerator, or two on a machine without any."""

    nproc: PositiveInt | None = None  # processes on this machine; null: one per accelerator, or two without any
    max_restarts: NonNegativeInt = (
        0  # restarts from the last checkpoint after a rank was killed, hung or failed by a bug
    )
    timeout: Annotated[Duration, Range(above=0), Units("s")] = Duration(600, "s")  # a rank silent for so long is hung

    world: PositiveInt | None = None  # plan only: ranks that are not there, for `dnntrain plan`; null: those that are
    ranks_per_node: PositiveInt | None = None  # plan only: ranks on each node of launch.world
    device_tflops: Positive | None = None  # plan only: peak of a device in the run's precision, 10^12 operations/s
    utilisation: Annotated[float, Range(above=0, at_most=1)] = 0.4  # plan only: part of that peak that a step reaches
    link_gbps: Positive | None = None  # plan only: a rank's link within a node, each direction, 10^9 bit/s
    node_link_gbps: Positive | None = None  # plan only: a rank's part of the link between nodes, 10^9 bit/s
    latency_us: NonNegative = 10.0  # plan only: of one message between two ranks, 10^-6 s

    def build(self, accelerators: int) -> int:
        """The number of processes of a layout that wants many, given the number of `accelerators` here."""
        return self.nproc or (accelerators if accelerators > 0 else 2)
