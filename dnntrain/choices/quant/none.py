"""No quantisation."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, Hooks, QuantChoice


@dataclass(frozen=True)
class NoQuantization(QuantChoice):
    """No quantisation. Fills no slot."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
