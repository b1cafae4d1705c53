"""Normalisation layers as the model defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.choices.norm._convert import NormFacts, local_note
from dnntrain.protocols import Alone, Collectives, Context, Need, Parts


@dataclass(frozen=True)
class Keep:
    """Normalisation layers as the model defines them. Fills no slot."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return Parts()

    def converted(self, model: nn.Module, collect: Collectives = Alone()) -> nn.Module:
        """`model` as it is."""
        return model

    def exported(self, model: nn.Module) -> nn.Module:
        """`model` as it is."""
        return model

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """What the plan says."""
        return local_note(facts) if facts.batch_norms else ()
