"""Federated averaging (McMahan et al., "Communication-efficient learning of deep networks", 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.federated._options import FederatedOptions
from dnntrain.config.fields import Fraction, Positive
from dnntrain.protocols import BuildContext, Hooks, Refusal


@dataclass(frozen=True)
class FedAvg(FederatedOptions):
    """new = start + server_lr * v, with v = server_momentum * v + (mean of the clients - start).

    The mean weights a client by its number of examples. The defaults are the mean itself.
    """

    server_lr: Positive = 1.0  # step size of the server; 1: the mean of the clients
    server_momentum: Fraction = 0.0  # momentum of the server (FedAvgM, Hsu et al., 2019)

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.server import MeanServer

        return self.make_hooks(MeanServer(self.server_lr, self.server_momentum))

    def find_export_refusal(self) -> Refusal | None:
        if self.server_lr != 1.0 or self.server_momentum:
            return super().find_export_refusal()
        return self.find_simulation_refusal()
