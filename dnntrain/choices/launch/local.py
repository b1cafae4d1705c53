"""Processes on this machine, started by torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Annotated, Duration, NonNegativeInt, PositiveInt, Range, Units
from dnntrain.protocols import LaunchChoice


@dataclass(frozen=True)
class LocalLaunch(LaunchChoice):
    """`nproc` processes where the layout wants more than one: one per accelerator, or two on a machine without any."""

    nproc: PositiveInt | None = None  # processes on this machine; null: one per accelerator, or two without any
    max_restarts: NonNegativeInt = 0  # restarts from the last checkpoint after a rank was killed, hung or crashed
    hang_timeout: Annotated[Duration, Range(above=0), Units("s")] = Duration(
        600, "s"
    )  # a rank without a sign of life for this long counts as hung

    def build(self, accelerators: int) -> int:
        """The number of processes of a layout that wants many, given the number of `accelerators` here."""
        return self.nproc or (accelerators if accelerators > 0 else 2)
