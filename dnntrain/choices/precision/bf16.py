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
        is_slow = hardware.device == "cpu" and not {"amx_bf16", "avx512_bf16", "bf16"} & set(hardware.cpu_features)
        return PrecisionPolicy(
            "bfloat16",
            uses_loss_scale=False,
            reason="asked for" + ("; this CPU emulates it, slowly" if is_slow else ""),
        )
