"""Processes on this machine, started by torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.config.fields import PositiveInt


@dataclass(frozen=True)
class Local:
    """`nproc` processes where the layout wants more than one: one per accelerator, or two on a machine without any."""

    nproc: PositiveInt | None = None  # processes on this machine; null: one per accelerator, or two without any

    def build(self, accelerators: int) -> int:
        """The number of processes of a layout that wants many, given the number of `accelerators` here."""
        return self.nproc or (accelerators if accelerators > 0 else 2)
