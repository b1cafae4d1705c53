"""Train without a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, DistillChoice, Hooks


@dataclass(frozen=True)
class NoDistillation(DistillChoice):
    """Train without a teacher; registers no hooks."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
