"""A block of a decoder: causal attention and a perceptron on each token, each with a normalization before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DecoderBlock(nn.Module):
    """x + attention(norm1(x)), then x + perceptron(norm2(x)).

    The options are those of `DecoderShape`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        hidden: int,
        context: int,
        *,
        activation: str,
        norm: str,
        rope_base: float,
        qk_norm: bool,
        bias: bool,
        dropout: float,
        norm_eps: float,
        attention_scale: float | None,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, width, bias, norm_eps)
        self.attn = CausalAttention(width, heads, kv_heads, context, rope_base, qk_norm, bias, dropout, attention_scale)
        self.norm2 = make_norm(norm, width, bias, norm_eps)
        self.mlp = TokenPerceptron(width, hidden, activation, bias, dropout)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        features = features + self.attn(self.norm1(features), mask)
        inner: Tensor = self.mlp(self.norm2(features))
        return features + inner

    def extend(self, features: Tensor, memory: Tensor, position: int) -> Tensor:
        """Return the features of tokens at `position` …, after those in `memory`, which gets them too."""
        features = features + self.attn.extend(self.norm1(features), memory, position)
        inner: Tensor = self.mlp(self.norm2(features))
        return features + inner

    def list_divisions(self) -> dict[str, str]:
        """Return how each layer is sharded over tensor-parallel ranks."""
        attention = {"attn.qkv": "columns/3"} if self.attn.shares_qkv else {"attn.q": "columns", "attn.kv": "columns/2"}
        up = "columns/2" if self.mlp.is_gated else "columns"
        per_position = dict.fromkeys(("norm1", "attn.drop", "norm2", "mlp.drop"), "positions")
        return {**attention, "attn.proj": "rows", "mlp.up": up, "mlp.down": "rows", **per_position}


class CausalAttention(nn.Module):
    """Each token's query meets the keys of the tokens up to it: [n, length, width] → the same.

    Several query heads may share a head of keys and values (Ainslie et al., "GQA", 2023). Rotary
    positions turn the pairs of numbers of queries and keys (Su et al., "RoFormer", 2021). Products of
    queries and keys are multiplied by `scale`, by default 1 / sqrt(width of a head).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        context: int,
        rope_base: float,
        qk_norm: bool,
        bias: bool,
        dropout: float,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.head_width, self.qk_norm, self.scale = width // heads, qk_norm, scale
        self.group = heads // kv_heads  # query heads that share a head of keys and values
        self.shares_qkv = heads == kv_heads
        if self.shares_qkv:
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
            self.qkv.parallel_units = heads  # type: ignore[assignment]  # tensor parallelism shards by heads
        else:
            self.q = nn.Linear(width, width, bias=bias)
            self.kv = nn.Linear(width, 2 * kv_heads * self.head_width, bias=bias)
            self.q.parallel_units = self.kv.parallel_units = kv_heads  # type: ignore[assignment]
        self.proj = nn.Linear(width, width, bias=bias)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.cos: Tensor | None
        self.sin: Tensor | None
        cos, sin = make_rotations(context, self.head_width, rope_base) if rope_base else (None, None)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.project(tokens, 0)
        mixed = functional.scaled_dot_product_attention(
            query, self.repeat(key), self.repeat(value), attn_mask=mask, is_causal=mask is None, scale=self.scale
        )
        outputs: Tensor = self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return outputs

    def extend(self, tokens: Tensor, memory: Tensor, position: int) -> Tensor:
        """Return the outputs of tokens at `position` …, which see `memory` [2, n, heads, context, width] and each other."""
        query, key, value = self.project(tokens, position)
        end = position + tokens.shape[1]
        memory[0, :, :, position:end] = key
        memory[1, :, :, position:end] = value
        mask = None
        if tokens.shape[1] > 1:
            mask = torch.ones(tokens.shape[1], end, dtype=torch.bool, device=tokens.device).tril(position)
        mixed = functional.scaled_dot_product_attention(
            query,
            self.repeat(memory[0, :, :, :end]),
            self.repeat(memory[1, :, :, :end]),
            attn_mask=mask,
            scale=self.scale,
        )
        outputs: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return outputs

    def project(self, tokens: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [n, heads, length, width] of tokens from `position` on.

        A tensor-parallel rank has a shard of the heads, of all positions even if `tokens` has a part of them.
        """
        if self.shares_qkv:
            query, key, value = self.qkv(tokens).unflatten(2, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        else:
            query = self.q(tokens).unflatten(2, (-1, self.head_width)).transpose(1, 2)
            key, value = self.kv(tokens).unflatten(2, (2, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        length = query.shape[2]
        if self.qk_norm:
            query, key = (functional.rms_norm(part, (self.head_width,)) for part in (query, key))
        if self.cos is not None and self.sin is not None:
            cos, sin = (table[position : position + length] for table in (self.cos, self.sin))
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        return query, key, value

    def count_kv_heads(self) -> int:
        """Return the number of heads of keys and values, which pruning may have reduced."""
        layer, parts = (self.qkv, 3) if self.shares_qkv else (self.kv, 2)
        return layer.out_features // parts // self.head_width

    def repeat(self, heads: Tensor) -> Tensor:
        """Return keys or values once for each query head."""
        return heads if self.group == 1 else heads.repeat_interleave(self.group, 1)


def make_rotations(context: int, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [context, width] of the angles position / base^(2 i / width) of pair i.

    Pair i has the numbers i and i + width / 2. The sines of the first half are negative.
    """
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of `values` [n, heads, length, width] by the angles of their positions."""
    half = values.shape[-1] // 2
    turned = values * cos + values.roll(half, -1) * sin
    return turned.to(values.dtype)


class TokenPerceptron(nn.Module):
    """A perceptron with one hidden layer on each token.

    gelu       down(gelu(up(x)))
    gelu_tanh  the same with the approximation of gelu by tanh, as in GPT-2
    relu2      down(max(up(x), 0)²)                               (So et al., "Primer", 2021)
    swiglu     down(silu(gate) * value) with gate, value = up(x)  (Shazeer, 2020)
    """

    def __init__(self, width: int, hidden: int, activation: str, bias: bool, dropout: float) -> None:
        super().__init__()
        self.activation, self.is_gated = activation, activation == "swiglu"
        self.up = nn.Linear(width, hidden * (2 if self.is_gated else 1), bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.up(tokens)
        if self.is_gated:
            gate, value = hidden.chunk(2, -1)
            hidden = functional.silu(gate) * value
        elif self.activation == "relu2":
            hidden = functional.relu(hidden).square()
        else:
            hidden = functional.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        outputs: Tensor = self.drop(self.down(hidden))
        return outputs


def make_norm(kind: str, width: int, bias: bool, eps: float) -> nn.Module:
    """Return the normalization of a token: x / root mean square, or layer normalization."""
    return nn.RMSNorm(width, eps=eps) if kind == "rms" else nn.LayerNorm(width, eps=eps, bias=bias)
