"""What a precision choice decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrecisionPolicy:
    """`autocast` is the name of a torch dtype for matrix products and convolutions, or None; weights stay float32.

    `scaler`: scale the loss so that float16 gradients do not vanish. `reason` says why this was chosen.
    """

    autocast_dtype: str | None
    uses_loss_scale: bool
    reason: str

    @property
    def name(self) -> str:
        return {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.autocast_dtype]
