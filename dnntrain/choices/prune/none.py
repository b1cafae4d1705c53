"""No pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.protocols import BuildContext, Hooks, LayoutRequirement


@dataclass(frozen=True)
class NoPruning:
    """No pruning. Fills no slot."""

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset()

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
