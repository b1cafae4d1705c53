"""Name the kernel that computes the attention of a network on its device, in its number format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: Names of the kernels by a part of the operator's name; the first that matches counts.
_KERNELS = (
    ("_flash_attention", "flash"),
    ("_efficient_attention", "memory-efficient"),
    ("_cudnn_attention", "cuDNN"),
    ("_fused_attention", "fused"),
)

#: Torch's own sum of products, which no fused operator computes.
UNFUSED = "math"


class _OperatorLog(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def find_attention_kernel(model: nn.Module, inputs: Tensor, autocast: torch.dtype | None) -> str:
    """Return the kernel that a training step of `model` would use: flash, memory-efficient, cuDNN, fused or math.

    One forward pass in eval mode shows it; math means that no fused kernel ran.
    """
    was_training, device = model.training, inputs.device.type
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(device, autocast, autocast is not None), _OperatorLog() as log:
            model(inputs)
    finally:
        model.train(was_training)
    names = [name for name in log.names if "scaled_dot_product" in name]
    return next((kernel for part, kernel in _KERNELS if any(part in name for name in names)), UNFUSED)
