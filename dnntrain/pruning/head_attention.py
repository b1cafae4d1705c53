"""Multi-head attention with fewer heads than its width would give."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class HeadAttention(nn.Module):
    """nn.MultiheadAttention's self-attention with a number of heads that does not fix the width.

    Its parameters have the same names: in_proj_weight [3 * heads * width, dim] and out_proj.
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight = source.in_proj_weight
        self.in_proj_bias = source.in_proj_bias
        self.out_proj = source.out_proj
        self.batch_first, self.dropout = source.batch_first, source.dropout
        self.num_heads = source.num_heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> tuple[Tensor, None]:
        """Return ([n, length, dim] or [length, n, dim], None) for three times the same tokens."""
        if key is not query or value is not query or options.get("need_weights", True):
            raise ValueError("attention with fewer heads supports self-attention without weights only")
        tokens = query if self.batch_first else query.transpose(0, 1)
        n, length, _dim = tokens.shape
        projected = functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        parts = projected.view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask, drop = options.get("attn_mask"), self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], mask, drop)
        outputs = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (outputs if self.batch_first else outputs.transpose(0, 1)), None


def replace_attention(module: nn.MultiheadAttention) -> HeadAttention:
    """Return attention with the parameters and heads of `module`, which are cut already."""
    replaced = HeadAttention(module).train(module.training)
    replaced.out_proj.out_features, replaced.out_proj.in_features = replaced.out_proj.weight.shape
    return replaced
