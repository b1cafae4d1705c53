"""Train in mixed precision with bfloat16.

Products are in bf16, weights and sums in float32. No loss scaling is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import PrecisionChoice, PrecisionPolicy
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Bf16(PrecisionChoice):
    """Use torch.autocast in bfloat16.

    Source: Micikevicius et al., "Mixed precision training", 2018; Kalamkar et al., 2019.
    """

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        reason = "asked for"
        if hardware.device == "cpu" and not hardware.fast_bf16_feature:
            if "avx512_bf16" in hardware.cpu_features:
                reason += "; fp32 may be faster on this CPU"
            elif "bf16" not in hardware.cpu_features:
                reason += "; this CPU emulates it, slowly"
        return PrecisionPolicy("bfloat16", uses_loss_scale=False, reason=reason)
