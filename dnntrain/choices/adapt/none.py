"""Train all parameters."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import AdaptChoice, BuildContext, Hooks


@dataclass(frozen=True)
class NoAdapters(AdaptChoice):
    """Train all parameters that are not frozen; registers no hooks."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
