"""Krum and Multi-Krum (Blanchard et al., "Machine learning with adversaries", 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from dnntrain.choices.federated._robust import RobustOptions
from dnntrain.config.fields import Annotated, PositiveInt, Range
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Krum(RobustOptions):
    """The weights of the client with the smallest distances to its nearest others, or the mean of several."""

    malicious: Annotated[float, Range(at_least=0, below=0.5)] = 0.2  # share of the clients that may send false updates
    selected: PositiveInt = 1  # clients whose mean is taken; 1: Krum, more: Multi-Krum

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.averaging import select_krum

        return self.make_hooks(join=partial(select_krum, malicious=self.malicious, selected=self.selected))
