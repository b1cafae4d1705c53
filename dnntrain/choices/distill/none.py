"""No teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.protocols import BuildContext, Hooks, LayoutRequirement


@dataclass(frozen=True)
class NoDistillation:
    """No teacher. Fills no slot."""

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset()

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
