"""Repeated augmentation.

Hoffer et al., "Augment your batch: improving generalization through instance repetition", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dnntrain.config.fields import Annotated, Range
from dnntrain.protocols import AugmentChoice, BuildContext, Hooks, Refusal, RunFacts


@dataclass(frozen=True)
class RepeatedAugment(AugmentChoice):
    """Fill each step with `copies` differently augmented copies of fewer examples.

    A step holds train.batch_size / `copies` examples. The cost of a step and the steps of an epoch
    stay the same. An epoch uses 1 / `copies` of the examples; `copies` epochs use each of them.
    """

    copies: Annotated[int, Range(at_least=2)] = 2  # copies of each example in a step; must divide train.batch_size

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        if facts.batch_size % self.copies:
            yield Refusal(
                f"augment.repeated_augment.copies={self.copies} does not divide train.batch_size={facts.batch_size}",
                f"use train.batch_size={math.ceil(facts.batch_size / self.copies) * self.copies}",
            )
        if not facts.varies_images:
            yield Refusal(
                f"augment.repeated_augment.copies={self.copies} repeats examples, "
                "but no augmentation makes the copies differ",
                "use +augment=[randaugment], or augment=[crop,flip,repeated_augment] with augment.crop.padding=4",
            )

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(augment_copies=self.copies)
