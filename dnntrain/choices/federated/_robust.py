"""The check that servers share which join the weights of all clients by another rule than the mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dnntrain.choices.federated._options import FederatedOptions
from dnntrain.protocols import Refusal, RunFacts


@dataclass(frozen=True)
class RobustOptions(FederatedOptions):
    """A server that keeps the weights of all clients of a round, and joins them entry by entry or as wholes."""

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        yield from super().find_refusals(facts)
        if self.dp == "central":
            yield Refusal(
                "federated.dp=central needs a sum of updates, which this server does not compute",
                "use federated=fedavg, or federated.dp=local",
            )
