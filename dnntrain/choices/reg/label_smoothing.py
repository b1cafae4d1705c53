"""Label smoothing (Szegedy et al., "Rethinking the Inception architecture", 2016, section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Fraction
from dnntrain.protocols import BuildContext, Hooks, RegChoice, TaskFeature


@dataclass(frozen=True)
class LabelSmoothing(RegChoice):
    """targets = (1 - smoothing) * onehot + smoothing / classes.

    The cross-entropy computes this at no extra cost.
    """

    smoothing: Fraction = 0.1  # probability mass spread evenly over all classes

    needs: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.SMOOTHABLE_TARGETS})

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(label_smoothing=self.smoothing)
