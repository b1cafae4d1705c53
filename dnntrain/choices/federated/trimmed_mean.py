"""The trimmed mean (Yin et al., "Byzantine-robust distributed learning", 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from dnntrain.choices.federated._robust import RobustOptions
from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class TrimmedMean(RobustOptions):
    """The mean of the clients' weights without the smallest and largest, entry by entry."""

    trim: Annotated[float, Range(at_least=0, below=0.5)] = 0.2  # share of the clients that is left out at either end

    def build(self, context: BuildContext) -> Hooks:
        from dnntrain.federated.averaging import trim_mean

        return self.make_hooks(join=partial(trim_mean, trim=self.trim))
