"""Generate tokens one by one: from the network's memory of the text, or by reading the text again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnntrain.nn.language_module import LanguageModule
from dnntrain.utils.rng import Key

#: Maps tokens int64 [n, context] to logits [n, context, vocabulary].
ComputeLogits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """The rule by which a token is drawn.

    temperature  divisor of the logits; 0: the most probable token
    top_k        only the k most probable tokens are drawn; None: all
    seed         seed of the draws
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def draw(self, logits: Tensor, step: int) -> list[int]:
        """Return a token for each row of `logits` [n, vocabulary]. Row and step are the key of a draw."""
        if self.temperature == 0:
            greedy: list[int] = logits.argmax(1).tolist()
            return greedy
        scaled = logits.double().cpu() / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[1]:
            lowest = scaled.topk(self.top_k).values[:, -1:]
            scaled = scaled.masked_fill(scaled < lowest, -torch.inf)
        sums = scaled.softmax(1).cumsum(1)
        numbers = torch.from_numpy(Key(self.seed, "generate").uniform(np.arange(len(sums)), step))
        places = (sums <= numbers[:, None] * sums[:, -1:]).sum(1).clamp(max=sums.shape[1] - 1)
        drawn: list[int] = places.tolist()
        return drawn


@torch.no_grad()
def generate_tokens(
    source: LanguageModule | ComputeLogits,
    prompt: Sequence[int],
    count: int,
    sampling: Sampling,
    *,
    context: int,
    samples: int = 1,
    device: str = "cpu",
) -> Iterator[list[int]]:
    """Yield `count` times the next token of each of `samples` texts that begin with `prompt`.

    A language module keeps keys and values of the tokens that it has read. A function reads the whole
    text each time. Once the text has `context` tokens, its last half is read again as a new text.
    """
    text = torch.tensor([list(prompt)] * samples, dtype=torch.int64, device=device)
    reader = _CachedReader(source, samples) if isinstance(source, LanguageModule) else _WindowReader(source, context)
    for step in range(count):
        if text.shape[1] > context:
            text = text[:, -max(1, context // 2) :]
            reader.restart()
        tokens = sampling.draw(reader.read(text), step)
        yield tokens
        text = torch.cat([text, torch.tensor(tokens, device=device)[:, None]], 1)


class _CachedReader:
    """Reads the tokens that are new since the last call."""

    def __init__(self, module: LanguageModule, samples: int) -> None:
        self._module, self._samples = module, samples
        self.restart()

    def restart(self) -> None:
        self._cache, self._position = self._module.make_cache(self._samples), 0

    def read(self, text: Tensor) -> Tensor:
        """Return the logits [n, vocabulary] after `text`."""
        logits = self._module.extend(text[:, self._position :], self._cache, self._position)
        self._position = text.shape[1]
        return logits


class _WindowReader:
    """Reads all tokens, filled up with zeros behind them, which they do not see."""

    def __init__(self, compute: ComputeLogits, context: int) -> None:
        self._compute, self._context = compute, context

    def restart(self) -> None:
        """Do nothing: nothing is kept."""

    def read(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        window = torch.nn.functional.pad(text, (0, self._context - length))
        return self._compute(window)[:, length - 1]
