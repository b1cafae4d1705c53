"""The interface of a network that predicts the next token."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dnntrain.protocols import SequenceShard, VocabularyShard


class LanguageModule(nn.Module):
    """Maps tokens int64 [n, length] to logits [n, length, vocabulary] of the token after each.

    defers_logits  whether `forward` returns `DeferredLogits`, from which a loss computes a part of the
                   logits at a time
    copies_outputs whether they hold a copy of the last layer's weight, and of gathered features, since FSDP
                   warns of a view
    head_shard     the part of the last layer that this rank has, if ranks share the vocabulary
    sequence       the positions that this rank has between layers, if ranks share them; `forward` splits the
                   embedded tokens and joins the inputs of the last layer
    context        the most tokens that the network reads
    """

    context: int
    defers_logits: bool = False
    copies_outputs: bool = False
    head_shard: VocabularyShard | None = None
    sequence: SequenceShard | None = None

    def split_sequence(self, features: Tensor) -> Tensor:
        """Return the part of `features` [n, length, width] that this rank computes with."""
        return features if self.sequence is None else self.sequence.split(features)

    def join_sequence(self, features: Tensor) -> Tensor:
        """Return the features of all positions."""
        return features if self.sequence is None else self.sequence.join(features)

    def make_cache(self, count: int) -> Sequence[Tensor]:
        """Return the empty memory of `count` texts, for `extend`."""
        raise NotImplementedError

    def extend(self, tokens: Tensor, cache: Sequence[Tensor], position: int) -> Tensor:
        """Return the logits [n, vocabulary] after the last of `tokens` int64 [n, length].

        The `position` tokens before them are in `cache`, which gets these too.
        """
        raise NotImplementedError


def set_deferred_logits(model: nn.Module, defers: bool) -> None:
    """Let the language module in `model`, if there is one, return deferred logits or not."""
    for module in model.modules():
        if isinstance(module, LanguageModule):
            module.defers_logits = defers


def find_language_module(model: nn.Module) -> LanguageModule | None:
    """Return the language module in `model`, or None."""
    return next((module for module in model.modules() if isinstance(module, LanguageModule)), None)
