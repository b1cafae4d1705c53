"""RandAugment.

Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space",
2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.augment._image_ops import AugmentPolicy, check_channels, make_operations
from dnntrain.config.fields import Annotated, PositiveInt, Range
from dnntrain.protocols import AugmentChoice, BuildContext, Claim, DataFeature, Hooks, Role


@dataclass(frozen=True)
class RandAugment(AugmentChoice):
    """Apply some of 14 operations to each image, all with one magnitude and a random sign.

    Operations are drawn uniformly for each image and epoch. Operations and magnitudes are
    torchvision's. They are applied after mirroring and cropping, to the bytes.
    """

    operations: PositiveInt = 2  # number of operations per image, one after another; 1 to 3 in the paper
    magnitude: Annotated[int, Range(at_least=0, at_most=30)] = (
        9  # strength of the operations: 0 is almost none, 30 the strongest
    )

    needs: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})
    varies_images: ClassVar[bool] = True

    claimed_roles: ClassVar[tuple[str, ...]] = ("IMAGE_OPERATIONS",)

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.IMAGE_OPERATIONS, "augment.randaugment", "leave augment.randaugment out"),)

    def build(self, context: BuildContext) -> Hooks:
        channels, height, width = context.spec.inputs.shape
        check_channels("randaugment", channels)
        space = make_operations(
            shear=0.3,
            across=150.0 / 331.0 * width,
            down=150.0 / 331.0 * height,
            degrees=30.0,
            enhance=0.9,
            fewest_bits=4,
        )
        policy = AugmentPolicy("randaugment", space, self.operations, self.magnitude)
        return Hooks(image_transforms=(policy,), mask_transforms=(policy.move_masks,))
