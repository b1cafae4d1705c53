"""Mixed precision with float16 and a dynamic loss scale."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.precision._policy import PrecisionPolicy
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Fp16:
    """torch.autocast in float16 with torch.amp.GradScaler (Micikevicius et al., "Mixed precision training", 2018)."""

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        return PrecisionPolicy("float16", uses_loss_scale=True, reason="asked for")
