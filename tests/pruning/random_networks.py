"""Random small networks of residual sums, concatenations, splits, grouped convolutions and attention."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        inner = draw.choice((4, 6, 8))
        self.one, self.two = nn.Conv2d(width, inner, 3, 1, 1), nn.Conv2d(inner, width, 1)
        self.norm = draw.choice((nn.BatchNorm2d(width), nn.GroupNorm(2, width), nn.Identity()))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.norm(self.two(self.one(features).relu()))


class Concatenation(nn.Module):
    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(width, 4, 3, 1, 1), nn.Conv2d(width, draw.choice((2, 4)), 1)
        self.keeps_input = draw.random() < 0.5
        total = 4 + self.right.out_channels + width * self.keeps_input
        self.merge = nn.Conv2d(total, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        parts = [self.left(features), self.right(features).relu()]
        return self.merge(torch.cat(([features] if self.keeps_input else []) + parts, 1))


class Gate(nn.Module):
    """A split whose halves multiply, or are summed."""

    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.twice, self.single = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.multiplies = draw.random() < 0.5

    def forward(self, features: Tensor) -> Tensor:
        one, two = self.twice(features).chunk(2, 1)
        return self.single(one * two.sigmoid() if self.multiplies else one + functional.gelu(two))


class Grouped(nn.Module):
    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        groups = draw.choice((2, width))
        self.conv = nn.Conv2d(width, width * draw.choice((1, 2)), 3, 1, 1, groups=groups, bias=draw.random() < 0.5)
        self.point = nn.Conv2d(self.conv.out_channels, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.point(self.conv(features).relu())


class Shuffle(nn.Module):
    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, groups=2)

    def forward(self, features: Tensor) -> Tensor:
        n, channels, height, width = self.conv(features).shape
        parts = self.conv(features).view(n, 2, channels // 2, height, width)
        return parts.transpose(1, 2).reshape(n, channels, height, width)


class Squeeze(nn.Module):
    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 3), nn.Linear(3, width)

    def forward(self, features: Tensor) -> Tensor:
        scale = self.up(self.down(features.mean((2, 3))).relu()).sigmoid()
        return features * scale[:, :, None, None]


class Attention(nn.Module):
    """Self-attention over pixels; with a norm before it or without."""

    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if draw.random() < 0.5 else nn.Identity()
        self.num_heads, self.head_dim = 2, 4
        self.qkv, self.proj = nn.Linear(width, 24, bias=draw.random() < 0.5), nn.Linear(8, width)
        self.fused = draw.random() < 0.5

    def forward(self, features: Tensor) -> Tensor:
        n, _, height, width = features.shape
        tokens = features.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm(tokens)).reshape(n, height * width, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(-2, -1) / 2).softmax(-1) @ value
        tokens = tokens + self.proj(mixed.transpose(1, 2).flatten(2))
        return tokens.transpose(1, 2).unflatten(2, (height, width))


BLOCKS = (Residual, Concatenation, Gate, Grouped, Shuffle, Squeeze, Attention)


def make_random_network(seed: int) -> nn.Module:
    """The network of a seed: a stem, three to five blocks, and a head."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    width = draw.choice((4, 8))
    blocks = [draw.choice(BLOCKS)(draw, width) for _ in range(draw.randint(3, 5))]
    tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)]
    if draw.random() < 0.4:
        tail = [nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * width, 3)]
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(), *blocks, *tail)
