"""No teacher."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, DistillChoice, Hooks


@dataclass(frozen=True)
class NoDistillation(DistillChoice):
    """No teacher. Fills no slot."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
