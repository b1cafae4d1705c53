"""Attribute the answer for a text to its tokens, by gradients of their embeddings.

For the embeddings E [length, width] of a text and the mean embedding m of tokens, a token's share is

    integrated_gradients  (E - m) · ∫ gradient(m + t (E - m)) dt for t from 0 to 1, summed over the width
                          (Sundararajan, Taly & Yan, ICML 2017); all shares add up to the score of the
                          text minus the score of a text of mean tokens
    gradient              (E - m) · gradient(E), the first order of the same difference

A token is covered if it has the mean embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.explain.method import Aim, require_gradients, select_answers

#: Points of the Gauss-Legendre quadrature.
_POINTS = 32


@dataclass(frozen=True, eq=False)
class TokenGradients:
    """The shares of tokens; a map has one row.

    layer        name of the embedding of tokens
    frequencies  float [vocabulary], the share of each token in texts
    length       tokens of a text
    separator    the token that begins a document, if a token sees its own document only
    """

    layer: str
    frequencies: Tensor
    length: int
    separator: int | None
    name: Literal["integrated_gradients", "gradient"] = "integrated_gradients"
    points: int = _POINTS
    needs_gradients: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        return (1, self.length)

    @property
    def calls(self) -> int:
        return 3 * (self.points if self.name == "integrated_gradients" else 1)

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        """Return the shares, float [n, 1, length], of the tokens int64 [n, length]; 0 for unseen ones."""
        return self.compute_shares(model, inputs, aim, torch.zeros(()))

    def compute_shares(self, model: nn.Module, inputs: Tensor, aim: Aim, noise: Tensor) -> Tensor:
        """Return the shares if `noise`, in units of the embeddings' deviation, is added to the embeddings."""
        mean, offsets = self.embed(model, inputs)
        offsets = offsets + noise.to(offsets) * self._measure_deviation(model)
        total = torch.zeros_like(offsets, dtype=torch.float64)
        for node, weight in self._list_nodes():
            with require_gradients(mean + node * offsets) as embeddings:
                with replace_output(model, self.layer, embeddings):
                    scores = aim.compute_scores(select_answers(model(inputs)))
                (gradients,) = torch.autograd.grad(scores.sum(), embeddings)
            total += weight * gradients.double()
        shares = (total * offsets.double()).sum(2) * self.find_visible(inputs)
        return shares.float()[:, None]

    @torch.no_grad()
    def embed(self, model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean embedding [width], and the embeddings of tokens minus it, [n, length, width]."""
        embeddings, frequencies = self._embed_vocabulary(model)
        mean = frequencies @ embeddings
        return mean, embeddings[inputs] - mean

    @torch.no_grad()
    def cover(self, model: nn.Module, inputs: Tensor, kept: Tensor) -> Tensor:
        """Return the embeddings [n, length, width] of the tokens that are `kept`, bool [n, length]; others are covered."""
        mean, offsets = self.embed(model, inputs)
        return mean + offsets * kept[..., None]

    def find_visible(self, inputs: Tensor) -> Tensor:
        """Return which tokens the last one sees, bool [n, length]."""
        return find_visible(inputs, self.separator)

    @torch.no_grad()
    def _embed_vocabulary(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the embeddings [vocabulary, width] of all tokens, and their frequencies."""
        layer = model.get_submodule(self.layer)
        frequencies = self.frequencies.to(next(layer.parameters()).device)
        return layer(torch.arange(len(frequencies), device=frequencies.device)).float(), frequencies

    def _measure_deviation(self, model: nn.Module) -> Tensor:
        """Return the standard deviation of the embeddings of tokens as frequent as in texts."""
        embeddings, frequencies = self._embed_vocabulary(model)
        return (frequencies @ (embeddings - frequencies @ embeddings).square().mean(1)).sqrt()

    def _list_nodes(self) -> list[tuple[float, float]]:
        if self.name == "gradient":
            return [(1.0, 1.0)]
        nodes, weights = np.polynomial.legendre.leggauss(self.points)
        return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


@contextmanager
def replace_output(model: nn.Module, layer: str, output: Tensor) -> Iterator[None]:
    """Let a layer return `output`, in the number format of its own output."""
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, computed: output.to(computed.dtype)
    )
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def find_token_embedding(model: nn.Module, inputs: Tensor) -> str | None:
    """Return the name of the embedding that gets the tokens `inputs`; None for a network without."""
    names: list[str] = []

    def record(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        tokens = arguments[0] if arguments else None
        if isinstance(tokens, Tensor) and tokens.shape == inputs.shape and bool((tokens == inputs).all()):
            names.append(name)

    handles = [
        module.register_forward_pre_hook(partial(record, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return names[0] if names else None


def find_visible(inputs: Tensor, separator: int | None) -> Tensor:
    """Return which tokens int64 [n, length] the last one sees: all, or with `separator` those of its own document."""
    if separator is None:
        return torch.ones_like(inputs, dtype=torch.bool)
    documents = (inputs == separator).cumsum(1)
    return documents == documents[:, -1:]


def count_tokens(inputs: Tensor, visible: Tensor, size: int) -> Tensor:
    """Return the share, float [size], of each token among the visible ones of texts int64 [n, length]."""
    counts = torch.bincount(inputs[visible], minlength=size).float()
    return counts / counts.sum().clamp_min(1)
