"""Train in single precision throughout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dnntrain.protocols import PrecisionChoice, PrecisionPolicy
from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Fp32(PrecisionChoice):
    """Use float32 for every value."""

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        return PrecisionPolicy(None, uses_loss_scale=False, reason="asked for")

    def list_speed_settings(self, facts: SpeedFacts) -> Iterable[SpeedSetting]:
        return (SpeedSetting("precision", SpeedGrade.STATISTICAL, ("bf16",)),) if facts.is_float32 else ()
