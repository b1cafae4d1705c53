"""FedProx (Li et al., "Federated optimization in heterogeneous networks", 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.federated._options import FederatedOptions
from dnntrain.config.fields import NonNegative
from dnntrain.protocols import BuildContext, Hooks, Refusal


@dataclass(frozen=True)
class FedProx(FederatedOptions):
    """loss of a client + mu / 2 * |weights - weights of the server|².

    The gradient of the term is added to the gradients, so the logged loss is without it.
    """

    mu: NonNegative = 0.01  # weight of mu / 2 * |weights - weights of the server|²

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.rules import Proximal

        return self.make_hooks(rule=Proximal(self.mu))

    def find_export_refusal(self) -> Refusal | None:
        return self.find_simulation_refusal()
