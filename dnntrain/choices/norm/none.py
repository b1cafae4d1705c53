"""Normalization layers as the model defines them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dnntrain.choices.norm._convert import make_local_note
from dnntrain.protocols import BuildContext, Collectives, Hooks, NormChoice, NormFacts, SingleProcess


@dataclass(frozen=True)
class NoConversion(NormChoice):
    """Normalization layers as the model defines them. Returns no hooks."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Return `model` as it is."""
        return model

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """Return `model` as it is."""
        return model

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return the notes of the plan."""
        return make_local_note(facts) if facts.batch_norms else ()
