"""How image files become inputs: the same for training, evaluation and prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ResizeMode = Literal["crop", "letterbox", "stretch"]
DecodeMode = Literal["full", "scaled"]

#: The effect of each mode, for manifests and messages. The box is not cropped first: its edges are fractions of
#: pixels, and the filter reads pixels beyond them.
RESIZE_DESCRIPTIONS: dict[str, str] = {
    "crop": "one antialiased bilinear resize of the largest centered box of the input's aspect",
    "letterbox": "one antialiased bilinear resize to fit within the input, centered on gray 114",
    "stretch": "one antialiased bilinear resize of the whole image, without keeping its aspect",
}

#: The same in Pillow, for a picture of W x H pixels and an input of w x h.
RESIZE_FORMULAS: dict[str, str] = {
    "crop": "s = min(W / w, H / h); l, t = (W - w * s) / 2, (H - h * s) / 2; "
    "picture.resize((w, h), BILINEAR, box=clip((l, t, l + w * s, t + h * s), 0, (W, H, W, H)))",
    "letterbox": "s = min(w / W, h / H); a, b = max(1, round(W * s)), max(1, round(H * s)); "
    "new(mode, (w, h), 114).paste(picture.resize((a, b), BILINEAR), ((w - a) // 2, (h - b) // 2))",
    "stretch": "picture.resize((w, h), BILINEAR)",
}


@dataclass(frozen=True)
class ImageReading:
    """Settings of a data set that decide how its files are read.

    resize     how an image of another aspect gets the size of the input
    max_value  value of white in images of more than 8 bits; None: by their type
    decode     full, or scaled: a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides if that is not below the input
    """

    resize: ResizeMode = "crop"
    max_value: float | None = None
    decode: DecodeMode = "full"
