"""Compare the layers of two networks by centered kernel alignment (CKA).

CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = X Xᵀ, L = Y Yᵀ, with the unbiased HSIC of Song et
al. (Kornblith et al., ICML 2019; Nguyen, Raghu & Kornblith, ICLR 2021). It is 1 if the layers hold the
same information up to rotation and scale, and about 0 if they have nothing in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.explain.layers import list_weight_layers

#: Examples that are compared, and layers of each network.
EXAMPLES = 256
MAX_LAYERS = 16


@dataclass(frozen=True)
class Similarity:
    """CKA of each layer of one network (rows) with each layer of the other (columns)."""

    rows: list[str]
    columns: list[str]
    values: list[list[float]]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = [[None if math.isnan(value) else value for value in row] for row in self.values]
        return {"layers": self.rows, "other_layers": self.columns, "cka": values}


def compute_hsic(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased HSIC of two Gram matrices [n, n] whose diagonal is 0, for n > 3."""
    n = len(a)
    first = (a * b).sum()
    second = a.sum() * b.sum() / ((n - 1) * (n - 2))
    third = 2 * (a.sum(0) * b.sum(0)).sum() / (n - 2)
    return (first + second - third) / (n * (n - 3))


def make_gram(features: Tensor) -> Tensor:
    """Return the Gram matrix of features [n, …] with a diagonal of 0."""
    rows = features.flatten(1).double()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T
    return gram.fill_diagonal_(0)


def compute_cka(a: Tensor, b: Tensor) -> float:
    """Return CKA of two Gram matrices [n, n]; 0 if one of them is constant, NaN for n <= 3."""
    if len(a) <= 3:
        return math.nan
    norm = float(compute_hsic(a, a)) * float(compute_hsic(b, b))
    return float(compute_hsic(a, b)) / norm**0.5 if norm > 0 else 0.0


@torch.no_grad()
def collect_grams(model: nn.Module, inputs: Tensor, names: list[str] | None = None) -> dict[str, Tensor]:
    """Return the Gram matrix of the outputs of each layer `names`, at most MAX_LAYERS, and of the model.

    A layer whose outputs are not one for each example, as on patches of images, is left out.
    """
    layers = list_weight_layers(model)
    chosen = names if names is not None else pick_evenly(list(layers), MAX_LAYERS)
    grams: dict[str, Tensor] = {}
    handles = [layers[name].register_forward_hook(partial(_record, grams, name, len(inputs))) for name in chosen]
    try:
        outputs = model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {**{name: grams[name] for name in chosen if name in grams}, "output": make_gram(outputs.float())}


def _record(grams: dict[str, Tensor], name: str, examples: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
    if len(output) == examples:
        grams[name] = make_gram(output.detach().float())


def pick_evenly(names: list[str], count: int) -> list[str]:
    """Return at most `count` of the names, evenly chosen, with the first and the last."""
    if len(names) <= count:
        return names
    return [names[round(place * (len(names) - 1) / (count - 1))] for place in range(count)]


def compare_grams(a: dict[str, Tensor], b: dict[str, Tensor]) -> Similarity:
    """Return CKA of each pair of layers."""
    values = [[compute_cka(left, right.to(left)) for right in b.values()] for left in a.values()]
    return Similarity(list(a), list(b), values)
