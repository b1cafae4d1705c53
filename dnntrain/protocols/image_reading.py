"""How image files become inputs: the same for training, evaluation and prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ResizeMode = Literal["crop", "letterbox", "stretch"]

#: The effect of each mode, for manifests and messages.
RESIZE_DESCRIPTIONS: dict[str, str] = {
    "crop": "the largest center crop of that aspect, resized (bilinear, antialiased)",
    "letterbox": "resized to fit (bilinear, antialiased), centered on gray 114",
    "stretch": "resized without keeping the aspect (bilinear, antialiased)",
}


@dataclass(frozen=True)
class ImageReading:
    """Settings of a data set that decide how its files are read.

    resize     how an image of another aspect gets the size of the input
    max_value  value of white in images of more than 8 bits; None: by their type
    """

    resize: ResizeMode = "crop"
    max_value: float | None = None
