"""Cross-entropy of next tokens, computed for a part of the positions at a time.

The logits of all positions take positions × vocabulary numbers, most of the memory of a small
language model. Here each part's logits are computed, used for the loss and for the gradients, and
freed (Hsu et al., "Liger Kernel", 2024, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dnntrain.protocols import DeferredLogits

#: Bytes of the logits of a part, as float32.
_CHUNK_BYTES = 32 * 2**20


def compute_token_losses(logits: DeferredLogits, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each token, float32 [n, length], without gradients."""
    features = logits.features.reshape(-1, logits.features.shape[-1])
    flat_targets = targets.reshape(-1)
    losses = [
        _compute_chunk_losses(part, logits.weight, logits.cap, flat_targets[first : first + len(part)])
        for first, part in _split(features, logits.weight)
    ]
    return torch.cat(losses).view(targets.shape) if losses else features.new_zeros(targets.shape, dtype=torch.float32)


def compute_chunked_loss(logits: DeferredLogits, targets: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of `targets` [n, length], with gradients."""
    features = logits.features.reshape(-1, logits.features.shape[-1])
    if not torch.is_grad_enabled():
        return compute_token_losses(logits, targets).sum()
    loss: Tensor = _ChunkedLoss.apply(features, logits.weight, targets.reshape(-1), logits.cap)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The summed loss. The forward pass computes the gradients too, so no logits are computed again."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        total = features.new_zeros((), dtype=torch.float32)
        feature_gradient = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for first, part in _split(features, weight):
            raw = (part @ weight.T).float()
            logits = cap * (raw / cap).tanh() if cap else raw
            part_targets = targets[first : first + len(part), None]
            log_sums = logits.logsumexp(1, keepdim=True)
            total += (log_sums - logits.gather(1, part_targets)).sum()
            gradient = (logits - log_sums).exp_()
            gradient.scatter_add_(1, part_targets, gradient.new_full((1, 1), -1.0).expand(len(part), 1))
            if cap:
                gradient *= 1 - (logits / cap).square_()
            gradient = gradient.to(weight.dtype)
            if feature_gradient is not None:
                torch.mm(gradient, weight, out=feature_gradient[first : first + len(part)])
            if weight_gradient is not None:
                weight_gradient.addmm_(gradient.T, part) if part.dtype == torch.float32 else weight_gradient.add_(
                    gradient.T @ part
                )
        ctx.save_for_backward(*(gradient for gradient in (feature_gradient, weight_gradient) if gradient is not None))
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = gradients
        saved = iter(ctx.saved_tensors)
        # A feature's gradient keeps its type; that of the weight was summed in float32.
        feature_gradient = next(saved) * scale.to(torch.float32) if ctx.needs_input_grad[0] else None
        weight_gradient = next(saved) * scale if ctx.needs_input_grad[1] else None
        return (
            feature_gradient,
            None if weight_gradient is None else weight_gradient.to(ctx.weight_dtype),
            None,
            None,
        )


def _split(features: Tensor, weight: Tensor) -> list[tuple[int, Tensor]]:
    """Return the parts of `features` [positions, width], each with its first position."""
    rows = max(1, _CHUNK_BYTES // (4 * len(weight)))
    return [(first, features[first : first + rows]) for first in range(0, len(features), rows)]


def _compute_chunk_losses(features: Tensor, weight: Tensor, cap: float, targets: Tensor) -> Tensor:
    logits = (features @ weight.T).float()
    if cap:
        logits = cap * (logits / cap).tanh()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
