"""Embeddings of 8-bit integers with one scale for each row, alone or as the last layer, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGEST = 127


class Int8Rows(nn.Module):
    """A matrix [rows, width] as int8, each row r multiplied by a scale max|r| / 127."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / _LARGEST
        self.values: Tensor
        self.scale: Tensor
        self.register_buffer("values", (weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:
        """The matrix in floating point."""
        return self.values.to(self.scale.dtype) * self.scale


class Int8Embedding(Int8Rows):
    """Row numbers int64 [...] → rows [..., width]."""

    def forward(self, numbers: Tensor) -> Tensor:
        return self.values[numbers].to(self.scale.dtype) * self.scale[numbers]


class Int8TiedLinear(nn.Module):
    """Features [..., width] → products with each row [..., rows] of an embedding, which it shares."""

    def __init__(self, rows: Int8Rows, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.values, self.scale, self.bias = rows.values, rows.scale, bias

    def forward(self, features: Tensor) -> Tensor:
        products = functional.linear(features, self.values.to(features.dtype)) * self.scale[:, 0]
        return products if self.bias is None else products + self.bias


def quantize_embeddings(model: nn.Module) -> int:
    """Replace the embeddings in `model`, and linear layers that share their weight.

    Returns the number of weights that became integers.
    """
    rows_by_weight: dict[int, Int8Rows] = {}
    modules = [(name, module) for name, module in model.named_modules() if name]
    for name, module in modules:
        if type(module) is nn.Embedding and not module.max_norm:
            rows_by_weight[id(module.weight)] = rows = Int8Embedding(module.weight)
            _replace(model, name, rows)
    for name, module in modules:
        if type(module) is nn.Linear and id(module.weight) in rows_by_weight:
            _replace(model, name, Int8TiedLinear(rows_by_weight[id(module.weight)], module.bias))
    return sum(rows.values.numel() for rows in rows_by_weight.values())


def _replace(model: nn.Module, name: str, replacement: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)
