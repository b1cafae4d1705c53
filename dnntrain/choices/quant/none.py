"""Train without quantization."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, Hooks, QuantChoice


@dataclass(frozen=True)
class NoQuantization(QuantChoice):
    """Train without quantization; registers no hooks."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
