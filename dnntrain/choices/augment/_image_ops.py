"""torchvision's operations on bytes of images, from which augmentation policies choose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.errors import ConfigError
from dnntrain.protocols import IGNORED
from dnntrain.utils.rng import Index, Key

#: The operations that move pixels.
_MOVING_NAMES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

#: Number of magnitudes of an operation, evenly spaced from the weakest to the strongest.
BINS = 31


@dataclass(frozen=True)
class ImageOperation:
    """An operation and its magnitudes.

    magnitudes  [31] in the operation's own unit; empty if it has none
    is_signed   true: the magnitude is negated half of the time
    """

    name: str
    magnitudes: tuple[float, ...] = ()
    is_signed: bool = False


def make_operations(
    *, shear: float, across: float, down: float, degrees: float, enhance: float, fewest_bits: int
) -> tuple[ImageOperation, ...]:
    """Return the 14 operations in torchvision's order, with the given strongest magnitudes.

    shear         tangent of the angle
    across, down  pixels, truncated to integers
    degrees       angle of rotation
    enhance       1 ± enhance is the factor on brightness, color, contrast and sharpness
    fewest_bits   bits that are left of a byte

    Solarize inverts bytes at or above a threshold, which falls from 255 to 0.
    """
    bits = (8 - torch.arange(BINS) / ((BINS - 1) / (8 - fewest_bits))).round().tolist()
    enhance_names = ("Brightness", "Color", "Contrast", "Sharpness")
    return (
        ImageOperation("Identity"),
        *(ImageOperation(name, _make_magnitudes(0.0, shear), is_signed=True) for name in ("ShearX", "ShearY")),
        ImageOperation("TranslateX", _make_magnitudes(0.0, across), is_signed=True),
        ImageOperation("TranslateY", _make_magnitudes(0.0, down), is_signed=True),
        ImageOperation("Rotate", _make_magnitudes(0.0, degrees), is_signed=True),
        *(ImageOperation(name, _make_magnitudes(0.0, enhance), is_signed=True) for name in enhance_names),
        ImageOperation("Posterize", tuple(bits)),
        ImageOperation("Solarize", _make_magnitudes(1.0, 0.0)),
        ImageOperation("AutoContrast"),
        ImageOperation("Equalize"),
    )


def _make_magnitudes(first: float, last: float) -> tuple[float, ...]:
    return tuple(torch.linspace(first, last, BINS).tolist())


@dataclass(frozen=True)
class AugmentPolicy:
    """Apply `count` operations in turn, each drawn uniformly among `operations`.

    Their magnitude is number `bin_index`, or drawn if it is None. A call takes images, uint8 [n,
    channels, height, width], the numbers [n] that key their random choices, and the epoch's key; it
    returns a new tensor. The result for an image does not depend on the other images.
    """

    stream: str
    operations: tuple[ImageOperation, ...]
    count: int
    bin_index: int | None

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        for operation_indices, bins, is_negated in self.draw_choices(number, key):
            images = apply_operations(images, self.operations, operation_indices, bins, is_negated)
        return images

    def move_masks(self, masks: Tensor, number: Index, key: Key) -> Tensor:
        """Move the pixels of masks, uint8 [n, 1, h, w], as those of the images; 255 outside of the image."""
        operations = tuple(
            operation if operation.name in _MOVING_NAMES else ImageOperation("Identity")
            for operation in self.operations
        )
        # The operations fill with zeros, which are the complement of 255.
        complements = IGNORED - masks
        for operation_indices, bins, is_negated in self.draw_choices(number, key):
            complements = apply_operations(complements, operations, operation_indices, bins, is_negated)
        return IGNORED - complements

    def draw_choices(self, number: Index, key: Key) -> list[tuple[Index, Index, NDArray[np.bool_]]]:
        """Return (operation index, magnitude bin, is it negated), each [n], for each turn."""
        key = key.with_stream(self.stream)
        return [
            (
                key.integers(number, len(self.operations), 3 * turn),
                key.integers(number, BINS, 3 * turn + 1)
                if self.bin_index is None
                else np.full(len(number), self.bin_index),
                key.uniform(number, 3 * turn + 2) < 0.5,
            )
            for turn in range(self.count)
        ]


def apply_operations(
    images: Tensor,
    operations: tuple[ImageOperation, ...],
    operation_indices: Index,
    bins: Index,
    is_negated: NDArray[np.bool_],
) -> Tensor:
    """Apply to each of `images`, uint8 [n, c, h, w], its own operation; return a new tensor.

    Images with the same operation and magnitude are processed at once.
    """
    result = images.clone()
    is_signed = np.array([operation.is_signed for operation in operations])[operation_indices]
    has_magnitudes = np.array([bool(operation.magnitudes) for operation in operations])[operation_indices]
    groups = np.stack([operation_indices, bins * has_magnitudes, is_negated & is_signed], axis=1)
    kinds, member = np.unique(groups, axis=0, return_inverse=True)
    for number, (operation_index, bin_index, is_negative) in enumerate(kinds.tolist()):
        operation = operations[operation_index]
        if operation.name == "Identity":
            continue
        magnitude = operation.magnitudes[bin_index] if operation.magnitudes else 0.0
        rows = torch.from_numpy(np.flatnonzero(member.reshape(-1) == number)).to(images.device)
        # One memory layout: kernels for another one may round differently.
        part = images.index_select(0, rows).contiguous()
        result[rows] = apply_operation(part, operation.name, -magnitude if is_negative else magnitude)
    return result


def apply_operation(images: Tensor, name: str, magnitude: float) -> Tensor:
    """Apply one operation to `images`, uint8 [n, c, h, w].

    Pixels from outside are black; moved pixels take the nearest value.
    """
    functional: Any = import_module("torchvision.transforms.v2.functional")
    if name in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
        is_translation = name.startswith("Translate")
        amount = int(magnitude) if is_translation else math.degrees(math.atan(magnitude))
        pair = [amount, 0] if name.endswith("X") else [0, amount]
        return _as_tensor(
            functional.affine(
                images,
                angle=0.0,
                translate=pair if is_translation else [0, 0],
                scale=1.0,
                shear=[0.0, 0.0] if is_translation else [float(angle) for angle in pair],
                # The center of shearing is the upper left corner, as in the papers' code.
                center=None if is_translation else [0, 0],
            )
        )
    if name == "Rotate":
        return _as_tensor(functional.rotate(images, angle=magnitude))
    if name == "Posterize":
        return _as_tensor(functional.posterize(images, bits=int(magnitude)))
    if name == "Solarize":
        return _as_tensor(functional.solarize(images, threshold=255 * magnitude))
    enhance_functions = {
        "Brightness": functional.adjust_brightness,
        "Color": functional.adjust_saturation,
        "Contrast": functional.adjust_contrast,
        "Sharpness": functional.adjust_sharpness,
    }
    if name in enhance_functions:
        return _as_tensor(enhance_functions[name](images, 1.0 + magnitude))
    value_functions = {"AutoContrast": functional.autocontrast, "Equalize": functional.equalize}
    return _as_tensor(value_functions[name](images))


def _as_tensor(value: Tensor) -> Tensor:
    """Return `value`; torchvision is not typed."""
    return value


def check_channels(name: str, channels: int) -> None:
    """Raise ConfigError if torchvision has no operations for images of that many channels."""
    if channels not in (1, 3):
        raise ConfigError(
            f"augment.{name} works on gray or color images, and these have {channels} channels",
            f"leave {name} out of augment",
        )
