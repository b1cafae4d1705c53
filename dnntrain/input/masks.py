"""Masks of images: the class of each pixel, moved as the pixels of the image are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dnntrain.input.source import DataSet, make_targets
from dnntrain.protocols import IGNORED, MaskTransform, TargetKind
from dnntrain.utils.rng import Index, Key

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.input.augment import Augmentation


@runtime_checkable
class MaskSource(Protocol):
    """A source whose targets are masks of the size of its images. Its `labels` are zeros."""

    def read_mask(self, index: int) -> Tensor:
        """Return the class of each pixel, uint8 [height, width]; 255 does not count.

        Raises DataError naming the file.
        """
        ...

    def get_resident_masks(self) -> Tensor | None:
        """Return all masks in host memory, uint8 [n, height, width]; None if images are read one by one.

        Those that an open cache lacks are zeros.
        """
        ...


def count_mask_bytes(source: object, shape: Sequence[int]) -> int:
    """Return the bytes of a mask that a reader sends beside an input of this shape: 0 without masks."""
    return math.prod(shape[1:]) if isinstance(source, MaskSource) else 0


def make_empty_targets(dataset: DataSet) -> Tensor:
    """Return the targets of no example."""
    if dataset.targets.kind is not TargetKind.MASK:
        return make_targets(dataset.train.labels[:0].copy())
    import torch

    return torch.empty(0, *dataset.inputs.shape[1:], dtype=torch.int64)


class MaskGatherer:
    """Gathers masks by number, and moves their pixels with the draws of the images.

    The crop fills with zeros, so it moves the complements of the masks: 255 - 0 is `IGNORED`.
    """

    def __init__(
        self, masks: Tensor, augmentation: Augmentation, transforms: Sequence[MaskTransform], device: str
    ) -> None:
        from dnntrain.input.augment import RowAugmenter

        count, height, width = masks.shape
        self._shape = (height, width)
        self._rows = masks.reshape(count, -1).to(device)
        self._augment = RowAugmenter(augmentation, height, width, 1, device) if augmentation else None
        self._transforms = transforms

    def __call__(self, device_index: Tensor, rng_index: Index, key: Key) -> Tensor:
        """Return int64 [n, height, width]."""
        rows = self._rows.index_select(0, device_index)
        if self._augment is not None:
            rows = (IGNORED - self._augment(IGNORED - rows, rng_index, key)).view(len(rows), -1)
        masks = rows.view(len(rows), 1, *self._shape)
        for transform in self._transforms:
            masks = transform(masks, rng_index, key)
        return masks[:, 0].long()


def augment_mask(
    mask: Tensor, augmentation: Augmentation, transforms: Sequence[MaskTransform], rng_index: Index, key: Key
) -> Tensor:
    """Move the pixels of one mask, uint8 [height, width], as the reader moves those of its image."""
    from dnntrain.input.augment import augment_image

    moved = mask[None]
    if augmentation:
        moved = IGNORED - augment_image(IGNORED - moved, augmentation, int(rng_index[0]), key)
    for transform in transforms:
        (moved,) = transform(moved[None], rng_index, key)
    return moved[0]
