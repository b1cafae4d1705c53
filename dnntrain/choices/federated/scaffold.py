"""SCAFFOLD (Karimireddy et al., "Stochastic controlled averaging for federated learning", 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dnntrain.choices.federated._options import FederatedOptions
from dnntrain.protocols import BuildContext, Hooks, Refusal


@dataclass(frozen=True)
class Scaffold(FederatedOptions):
    """gradient of a client + control of the server - control of the client.

    A control is the mean of a client's gradients in its last round; that of the server is their mean
    over all clients. Each client sends and gets one besides the weights.
    """

    def find_option_refusals(self) -> Iterator[Refusal]:
        yield from super().find_option_refusals()
        if self.dp != "none":
            yield Refusal(
                f"federated=scaffold does not support federated.dp={self.dp}, because the controls of clients would "
                "leave them without clipping and without noise",
                "use federated=fedavg or federated=fedprox, or leave federated.dp out",
            )

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.rules import Controls

        return self.make_hooks(rule=Controls(self.clients), sends_extra=1)
