"""Train without pruning."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, Hooks, PruneChoice


@dataclass(frozen=True)
class NoPruning(PruneChoice):
    """Train without pruning; registers no hooks."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
