"""FedAdam (Reddi et al., "Adaptive federated optimization", 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.federated._adaptive import AdaptiveOptions
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class FedAdam(AdaptiveOptions):
    """new = start + server_lr * m / (√v + tau), with moments m and v of the mean update of the clients."""

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.server import AdaptiveServer

        return self.make_hooks(AdaptiveServer("adam", self.server_lr, self.beta1, self.beta2, self.tau))
