"""SCAFFOLD (Karimireddy et al., "Stochastic controlled averaging for federated learning", 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.federated._options import FederatedOptions
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Scaffold(FederatedOptions):
    """gradient of a client + control of the server - control of the client.

    A control is the mean of a client's gradients in its last round; that of the server is their mean
    over all clients. Each client sends and gets one besides the weights.
    """

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.rules import Controls

        return self.make_hooks(rule=Controls(self.clients), sends_extra=1)
