"""No pruning."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, Hooks, PruneChoice


@dataclass(frozen=True)
class NoPruning(PruneChoice):
    """No pruning. Fills no slot."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
