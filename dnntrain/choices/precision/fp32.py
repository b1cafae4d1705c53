"""Single precision throughout."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.precision._policy import Policy
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Fp32:
    """Every number is float32."""

    def build(self, hardware: Hardware) -> Policy:
        return Policy(None, scaler=False, reason="asked for")
