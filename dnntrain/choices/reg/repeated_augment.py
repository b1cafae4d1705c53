"""Repeated augmentation (Hoffer et al., "Augment your batch: improving generalization through instance repetition", 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import BuildContext, Hooks, LayoutRequirement


@dataclass(frozen=True)
class RepeatedAugment:
    """Each step holds `copies` differently augmented copies of train.batch_size / `copies` examples.

    A step costs what it did, and an epoch has as many steps; it sees 1 / `copies` of the examples, and `copies` epochs see each of them.
    """

    copies: Annotated[int, Range(at_least=2)] = 2  # of each example in a step; must divide train.batch_size

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset()

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(augment_copies=self.copies)
