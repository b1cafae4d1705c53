"""TrivialAugment (Müller & Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.reg._image_ops import AugmentPolicy, check_channels, make_operations
from dnntrain.protocols import BuildContext, Hooks, LayoutRequirement


@dataclass(frozen=True)
class TrivialAugment:
    """Each image goes through one of 14 operations, at one of 31 magnitudes, both drawn evenly for it and the epoch; there is no knob.

    Operations and magnitudes are those of the paper's wide space, as in torchvision. It comes after mirroring and cropping, on the bytes.
    """

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset()
    varies: ClassVar[bool] = True

    def build(self, context: BuildContext) -> Hooks:
        check_channels("trivial_augment", context.spec.inputs.shape[0])
        space = make_operations(shear=0.99, across=32.0, down=32.0, degrees=135.0, enhance=0.99, fewest_bits=2)
        return Hooks(image_transforms=(AugmentPolicy("trivial_augment", space, 1, None),))
