"""The coordinate-wise median (Yin et al., "Byzantine-robust distributed learning", 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.federated._robust import RobustOptions
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Median(RobustOptions):
    """The median of the clients' weights, entry by entry; each client counts once."""

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.averaging import take_median

        return self.make_hooks(join=take_median)
