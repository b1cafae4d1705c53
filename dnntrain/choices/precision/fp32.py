"""Train in single precision throughout."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import PrecisionChoice, PrecisionPolicy
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Fp32(PrecisionChoice):
    """Use float32 for every value."""

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        return PrecisionPolicy(None, uses_loss_scale=False, reason="asked for")
