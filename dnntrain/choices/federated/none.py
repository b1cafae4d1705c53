"""Train on all examples together."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.protocols import BuildContext, FederatedChoice, Hooks


@dataclass(frozen=True)
class NoFederation(FederatedChoice):
    """Train on all examples together; registers no hooks."""

    def build(self, context: BuildContext) -> Hooks:
        return Hooks()
