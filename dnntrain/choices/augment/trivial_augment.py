"""TrivialAugment.

Müller & Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.augment._image_ops import AugmentPolicy, check_channels, make_operations
from dnntrain.protocols import AugmentChoice, BuildContext, Claim, DataFeature, Hooks, Role


@dataclass(frozen=True)
class TrivialAugment(AugmentChoice):
    """Apply one of 14 operations to each image, with one of 31 magnitudes.

    Both are drawn uniformly for each image and epoch; there is nothing to configure. Operations and
    magnitudes are the paper's wide space, as in torchvision. They are applied after mirroring and
    cropping, to the bytes.
    """

    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})
    varies_images: ClassVar[bool] = True

    claimed_roles: ClassVar[tuple[str, ...]] = ("IMAGE_OPERATIONS",)

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.IMAGE_OPERATIONS, "augment.trivial_augment", "leave augment.trivial_augment out"),)

    def build(self, context: BuildContext) -> Hooks:
        check_channels("trivial_augment", context.spec.inputs.shape[0])
        space = make_operations(shear=0.99, across=32.0, down=32.0, degrees=135.0, enhance=0.99, fewest_bits=2)
        policy = AugmentPolicy("trivial_augment", space, 1, None)
        return Hooks(image_transforms=(policy,), mask_transforms=(policy.move_masks,))
