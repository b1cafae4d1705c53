"""Select the fastest native precision that needs no loss scale, if there is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dnntrain.protocols import PrecisionChoice, PrecisionPolicy
from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class AutoPrecision(PrecisionChoice):
    """Select bf16, fp16 or fp32 by the hardware.

    bf16 on a GPU of capability 8.0 or more, on a CPU with AMX, and on an AMD CPU with AVX512-bf16;
    fp16 on older GPUs, unless the layout does not support its loss scale; else fp32.
    """

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        if hardware.device == "cuda":
            major, minor = hardware.capability
            if major >= 8:
                return PrecisionPolicy(
                    "bfloat16", False, f"auto: {hardware.device_name} computes bf16 (capability {major}.{minor})"
                )
            if major >= 7:
                return PrecisionPolicy("float16", True, f"auto: {hardware.device_name} computes fp16, not bf16")
            return PrecisionPolicy(None, False, f"auto: capability {major}.{minor} has no fast half precision")
        if hardware.device == "cpu":
            if feature := hardware.fast_bf16_feature:
                return PrecisionPolicy("bfloat16", False, f"auto: this CPU computes bf16 fast ({feature})")
            if "avx512_bf16" in hardware.cpu_features:
                return PrecisionPolicy(None, False, "auto: this CPU has no AMX, and computes fp32 faster than bf16")
            return PrecisionPolicy(None, False, "auto: this CPU has neither AMX nor AVX512-bf16")
        return PrecisionPolicy(None, False, f"auto: fp32 on {hardware.device}")

    def avoid_loss_scale(self, policy: PrecisionPolicy) -> PrecisionPolicy:
        return PrecisionPolicy(None, False, f"{policy.reason}, but this layout does not support its loss scale")

    def list_speed_settings(self, facts: SpeedFacts) -> Iterable[SpeedSetting]:
        return (SpeedSetting("precision", SpeedGrade.STATISTICAL, ("bf16",)),) if facts.is_float32 else ()
