"""Train in mixed precision with float16 and a dynamic loss scale."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import PrecisionChoice, PrecisionPolicy, Refusal
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Fp16(PrecisionChoice):
    """Use torch.autocast in float16 with torch.amp.GradScaler.

    Source: Micikevicius et al., "Mixed precision training", 2018.
    """

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        return PrecisionPolicy("float16", uses_loss_scale=True, reason="asked for")

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        if hardware.device == "cpu":
            return Refusal("needs a GPU; a CPU computes it slowly", "use precision=bf16 or precision=auto")
        return None
