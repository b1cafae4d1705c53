"""What a precision choice decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PrecisionPolicy:
    """`autocast` is the name of a torch dtype for matrix products and convolutions, or None; weights stay float32.

    `scaler`: scale the loss so that float16 gradients do not vanish. `reason` says why this was chosen.
    """

    autocast_dtype: str | None
    uses_loss_scale: bool
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype of that name."""
        import torch

        return None if self.autocast_dtype is None else getattr(torch, self.autocast_dtype)

    @property
    def name(self) -> str:
        return {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.autocast_dtype]
