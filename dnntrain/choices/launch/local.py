"""Start processes on this machine, which meet on its loopback interface."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import Annotated, Duration, NonNegativeInt, PositiveInt, Range, Units
from dnntrain.protocols import LaunchChoice


@dataclass(frozen=True)
class LocalLaunch(LaunchChoice):
    """Start `nproc` processes if the layout needs more than one.

    The default is one per accelerator, or two on a machine without accelerators.
    """

    nproc: PositiveInt | None = None  # processes on this machine; null: one per accelerator, or two without any
    max_restarts: NonNegativeInt = 0  # restarts from the last checkpoint after a rank was killed, hung or crashed
    hang_timeout: Annotated[Duration, Range(above=0), Units("s")] = Duration(
        600, "s"
    )  # a rank without a sign of life for this long counts as hung

    def build(self, accelerators: int) -> int:
        """Return the number of processes for a layout with several ranks.

        `accelerators` is the number of accelerators of this machine.
        """
        return self.nproc or (accelerators if accelerators > 0 else 2)
