"""Operations on the bytes of images that augmentation policies choose from, those of torchvision under its names."""

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
from dnntrain.utils.rng import Index, Key

#: Magnitudes that each operation has, evenly spaced from the weakest to the strongest.
BINS = 31


@dataclass(frozen=True)
class Operation:
    """`magnitudes` [31] in the operation's own unit, empty where it has none; `signed`: half of them are negated."""

    name: str
    magnitudes: tuple[float, ...] = ()
    signed: bool = False


def operations(
    *, shear: float, across: float, down: float, degrees: float, enhance: float, fewest_bits: int
) -> tuple[Operation, ...]:
    """The 14 operations in torchvision's order, with their strongest magnitudes.

    shear (tangent of the angle), across and down (pixels, cut to whole ones), degrees of rotation, enhance (a factor of 1 ± it on
    brightness, colour, contrast, sharpness), fewest_bits that are left of a byte. Solarise inverts what is at least 255 to 0.
    """
    bits = (8 - torch.arange(BINS) / ((BINS - 1) / (8 - fewest_bits))).round().tolist()
    enhanced = ("Brightness", "Color", "Contrast", "Sharpness")
    return (
        Operation("Identity"),
        *(Operation(name, _steps(0.0, shear), signed=True) for name in ("ShearX", "ShearY")),
        Operation("TranslateX", _steps(0.0, across), signed=True),
        Operation("TranslateY", _steps(0.0, down), signed=True),
        Operation("Rotate", _steps(0.0, degrees), signed=True),
        *(Operation(name, _steps(0.0, enhance), signed=True) for name in enhanced),
        Operation("Posterize", tuple(bits)),
        Operation("Solarize", _steps(1.0, 0.0)),
        Operation("AutoContrast"),
        Operation("Equalize"),
    )


def _steps(first: float, last: float) -> tuple[float, ...]:
    return tuple(torch.linspace(first, last, BINS).tolist())


@dataclass(frozen=True)
class Policy:
    """`count` operations in turn, each drawn evenly among `operations`; their magnitude is number `bin`, or drawn where that is None.

    Called with images uint8 [n, channels, height, width], [n] the numbers that their choices are keyed by, and the epoch's key;
    returns a new tensor. An image comes out the same alone and among others.
    """

    stream: str
    operations: tuple[Operation, ...]
    count: int
    bin: int | None

    def __call__(self, images: Tensor, number: Index, key: Key) -> Tensor:
        for which, bins, negated in self.choices(number, key):
            images = applied(images, self.operations, which, bins, negated)
        return images

    def choices(self, number: Index, key: Key) -> list[tuple[Index, Index, NDArray[np.bool_]]]:
        """For each operation in turn: (which of `operations`, bin of its magnitude, whether that is negated), each [n]."""
        key = key.named(self.stream)
        return [
            (
                key.integers(number, len(self.operations), 3 * turn),
                key.integers(number, BINS, 3 * turn + 1) if self.bin is None else np.full(len(number), self.bin),
                key.uniform(number, 3 * turn + 2) < 0.5,
            )
            for turn in range(self.count)
        ]


def applied(
    images: Tensor, operations: tuple[Operation, ...], which: Index, bins: Index, negated: NDArray[np.bool_]
) -> Tensor:
    """`images` uint8 [n, c, h, w], each after its own operation; a new tensor. What shares operation and magnitude is done at once."""
    result = images.clone()
    signed = np.array([operation.signed for operation in operations])[which]
    graded = np.array([bool(operation.magnitudes) for operation in operations])[which]
    groups = np.stack([which, bins * graded, negated & signed], axis=1)
    kinds, member = np.unique(groups, axis=0, return_inverse=True)
    for number, (chosen, bin_, negative) in enumerate(kinds.tolist()):
        operation = operations[chosen]
        if operation.name == "Identity":
            continue
        magnitude = operation.magnitudes[bin_] if operation.magnitudes else 0.0
        rows = torch.from_numpy(np.flatnonzero(member.reshape(-1) == number)).to(images.device)
        # One memory layout: kernels of another one may round otherwise.
        part = images.index_select(0, rows).contiguous()
        result[rows] = operated(part, operation.name, -magnitude if negative else magnitude)
    return result


def operated(images: Tensor, name: str, magnitude: float) -> Tensor:
    """`images` uint8 [n, c, h, w] after one operation; pixels from outside are black, moved ones the nearest."""
    functional: Any = import_module("torchvision.transforms.v2.functional")
    if name in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
        moves = name.startswith("Translate")
        amount = int(magnitude) if moves else math.degrees(math.atan(magnitude))
        pair = [amount, 0] if name.endswith("X") else [0, amount]
        return _tensor(
            functional.affine(
                images,
                angle=0.0,
                translate=pair if moves else [0, 0],
                scale=1.0,
                shear=[0.0, 0.0] if moves else [float(angle) for angle in pair],
                # Shearing is about the upper left corner, as in the papers' code.
                center=None if moves else [0, 0],
            )
        )
    if name == "Rotate":
        return _tensor(functional.rotate(images, angle=magnitude))
    if name == "Posterize":
        return _tensor(functional.posterize(images, bits=int(magnitude)))
    if name == "Solarize":
        return _tensor(functional.solarize(images, threshold=255 * magnitude))
    enhance = {
        "Brightness": functional.adjust_brightness,
        "Color": functional.adjust_saturation,
        "Contrast": functional.adjust_contrast,
        "Sharpness": functional.adjust_sharpness,
    }
    if name in enhance:
        return _tensor(enhance[name](images, 1.0 + magnitude))
    whole = {"AutoContrast": functional.autocontrast, "Equalize": functional.equalize}
    return _tensor(whole[name](images))


def _tensor(found: Tensor) -> Tensor:
    """torchvision is not typed."""
    return found


def check_channels(name: str, channels: int) -> None:
    """Raises ConfigError where torchvision has no operation for images of that many channels."""
    if channels not in (1, 3):
        raise ConfigError(
            f"reg.{name} works on gray or colour images, and these have {channels} channels", f"leave {name} out of reg"
        )
