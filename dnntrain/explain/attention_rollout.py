"""Make maps from the attention of a transformer, weighted by its gradients.

For each block, with attention A and its gradient G [heads, tokens, tokens]:

    R ← R + mean over heads of relu(G A) · R,    R = identity before the first block

(Chefer, Gur & Wolf, "Generic attention-model explainability", ICCV 2021, equations 5 and 6). The map is
the row of the class token, or the mean of all rows without one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dnntrain.explain.class_activation import list_image_layers
from dnntrain.explain.method import Aim, enlarge_maps, require_gradients

#: The most tokens that are not patches.
_MAX_PREFIX = 16


@dataclass(frozen=True)
class AttentionRollout:
    """The rollout of all blocks. The first `prefix` tokens are not patches; the others are `grid`."""

    grid: tuple[int, int]
    prefix: int
    name: str = "rollout"
    needs_gradients: bool = True
    calls: int = 3

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        recorder = AttentionRecorder()
        with require_gradients(inputs) as images:
            with recorder:
                outputs = model(images)
            scores = aim.compute_scores(outputs)
            gradients = torch.autograd.grad(scores.sum(), recorder.attentions, allow_unused=True)
        pairs = [
            (attention.detach(), torch.zeros_like(attention) if gradient is None else gradient)
            for attention, gradient in zip(recorder.attentions, gradients, strict=True)
        ]
        relevance = roll_out(pairs)
        row = relevance[:, 0] if self.prefix else relevance.mean(1)
        return enlarge_maps(row[:, self.prefix :].reshape(-1, *self.grid), *inputs.shape[2:])


def roll_out(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the relevance [n, tokens, tokens] of (attention, gradient) [n, heads, tokens, tokens] of each block."""
    tokens = pairs[0][0].shape[-1]
    relevance = torch.eye(tokens, device=pairs[0][0].device).expand(len(pairs[0][0]), -1, -1)
    for attention, gradient in pairs:
        relevance = relevance + (attention.float() * gradient.float()).relu().mean(1) @ relevance
    return relevance


@dataclass
class AttentionRecorder(TorchFunctionMode):
    """Compute each scaled dot-product attention step by step, and keep its weights."""

    attentions: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            scores = scores + torch.full_like(scores[..., :, :], -math.inf).triu(1)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        attention = scores.softmax(-1)
        self.attentions.append(attention)
        return attention @ value


@torch.no_grad()
def find_rollout(model: nn.Module, inputs: Tensor) -> AttentionRollout | None:
    """Return the method for a transformer over all patches of an image; None for another network.

    Networks with attention inside windows, or over tokens of several numbers, are other networks.
    """
    recorder = AttentionRecorder()
    with recorder:
        model(inputs)
    shapes = {attention.shape[0::2] for attention in recorder.attentions}
    if len(shapes) != 1 or any(item.ndim != 4 or item.shape[2] != item.shape[3] for item in recorder.attentions):
        return None
    n, tokens = recorder.attentions[0].shape[0::2]
    if n != len(inputs):
        return None
    for grid in reversed(list_image_layers(model, inputs).values()):
        if 0 <= tokens - grid[0] * grid[1] <= _MAX_PREFIX:
            return AttentionRollout(grid, tokens - grid[0] * grid[1])
    return None
