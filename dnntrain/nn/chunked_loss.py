"""Cross-entropy of next tokens, computed for a part of the positions at a time.

The logits of all positions take positions × vocabulary numbers, most of the memory of a small
language model. Here each part's logits are computed, used for the loss and for the gradients, and
freed (Hsu et al., "Liger Kernel", 2024, section 3.2). Ranks that share the vocabulary compute the
logits of their own tokens, and sum the exponentials (Shoeybi et al., "Megatron-LM", 2019, section 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dnntrain.protocols import DeferredLogits, VocabularyShard

#: Bytes of the logits of a part, as float32.
_CHUNK_BYTES = 32 * 2**20


def compute_token_losses(logits: DeferredLogits, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each token, float32 [n, length], without gradients."""
    features = logits.features.reshape(-1, logits.features.shape[-1])
    flat_targets = targets.reshape(-1)
    losses = [
        _compute_chunk_losses(part, logits, flat_targets[first : first + len(part)])
        for first, part in _split(features, logits.weight)
    ]
    return torch.cat(losses).view(targets.shape) if losses else features.new_zeros(targets.shape, dtype=torch.float32)


def compute_chunked_loss(logits: DeferredLogits, targets: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of `targets` [n, length], with gradients."""
    features = logits.features.reshape(-1, logits.features.shape[-1])
    if not torch.is_grad_enabled():
        return compute_token_losses(logits, targets).sum()
    loss: Tensor = _ChunkedLoss.apply(features, logits.weight, targets.reshape(-1), logits.cap, logits.shard)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The summed loss. The forward pass computes the gradients too, so no logits are computed again."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float, shard: VocabularyShard | None
    ) -> Tensor:
        total = features.new_zeros((), dtype=torch.float32)
        feature_gradient = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for first, part in _split(features, weight):
            raw = (part @ weight.T).float()
            logits = cap * (raw / cap).tanh() if cap else raw
            places, is_here = _locate_targets(targets[first : first + len(part), None], weight, shard)
            log_sums, target_logits = _reduce_logits(logits, places, is_here, shard)
            total += (log_sums - target_logits).sum()
            gradient = (logits - log_sums).exp_()
            gradient.scatter_add_(1, places, -is_here.to(gradient.dtype))
            if cap:
                gradient *= 1 - (logits / cap).square_()
            gradient = gradient.to(weight.dtype)
            if feature_gradient is not None:
                torch.mm(gradient, weight, out=feature_gradient[first : first + len(part)])
            if weight_gradient is not None:
                weight_gradient.addmm_(gradient.T, part) if part.dtype == torch.float32 else weight_gradient.add_(
                    gradient.T @ part
                )
        if feature_gradient is not None and shard is not None:
            feature_gradient = shard.sum(feature_gradient)
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
            None,
        )


def _split(features: Tensor, weight: Tensor) -> list[tuple[int, Tensor]]:
    """Return the parts of `features` [positions, width], each with its first position."""
    rows = max(1, _CHUNK_BYTES // (4 * len(weight)))
    return [(first, features[first : first + rows]) for first in range(0, len(features), rows)]


def _locate_targets(targets: Tensor, weight: Tensor, shard: VocabularyShard | None) -> tuple[Tensor, Tensor]:
    """Return the row of `weight` of each target, and whether this rank has it; if not, the row is any."""
    if shard is None:
        return targets, torch.ones_like(targets, dtype=torch.bool)
    places = targets - shard.first
    return places.clamp(0, len(weight) - 1), (places >= 0) & (places < len(weight))


def _reduce_logits(
    logits: Tensor, places: Tensor, is_here: Tensor, shard: VocabularyShard | None
) -> tuple[Tensor, Tensor]:
    """Return log(sum of exponentials) over the whole vocabulary, and the logits of the targets, both [n, 1]."""
    target_logits = logits.gather(1, places)
    if shard is None:
        return logits.logsumexp(1, keepdim=True), target_logits
    largest = shard.max(logits.amax(1, keepdim=True))
    exponentials = (logits - largest).exp_().sum(1, keepdim=True)
    sums = shard.sum(torch.cat([exponentials, target_logits * is_here], 1))
    return largest + sums[:, :1].log(), sums[:, 1:]


def _compute_chunk_losses(features: Tensor, deferred: DeferredLogits, targets: Tensor) -> Tensor:
    _, weight, cap, shard = deferred
    logits = (features @ weight.T).float()
    if cap:
        logits = cap * (logits / cap).tanh()
    if shard is None:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    log_sums, target_logits = _reduce_logits(logits, *_locate_targets(targets[:, None], weight, shard), shard)
    return (log_sums - target_logits).flatten()
