"""How image files become inputs: the same for training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

ResizeMode = Literal["crop", "letterbox", "stretch"]
DecodeMode = Literal["full", "fast", "scaled"]

#: The effect of each mode, for manifests and messages. The box is not cropped first: its edges are fractions of
#: pixels, and the filter reads pixels beyond them.
_DESCRIPTIONS: dict[str, str] = {
    "crop": "one antialiased bilinear resize of the largest centered box of the input's aspect",
    "letterbox": "one antialiased bilinear resize to fit within the input, centered on gray 114",
    "stretch": "one antialiased bilinear resize of the whole image, without keeping its aspect",
}

#: The same in Pillow, for a picture of W x H pixels and an input of w x h.
_FORMULAS: dict[str, str] = {
    "crop": "s = min(W / w, H / h); l, t = (W - w * s) / 2, (H - h * s) / 2; "
    "picture.resize((w, h), BILINEAR, box=clip((l, t, l + w * s, t + h * s), 0, (W, H, W, H)))",
    "letterbox": "s = min(w / W, h / H); a, b = max(1, round(W * s)), max(1, round(H * s)); "
    "new(mode, (w, h), 114).paste(picture.resize((a, b), BILINEAR), ((w - a) // 2, (h - b) // 2))",
    "stretch": "picture.resize((w, h), BILINEAR)",
}

#: The same for a box of whole pixels, which `decode` fast and scaled crop.
_WHOLE_BOX_DESCRIPTION = (
    "one antialiased bilinear resize of the largest centered box of the input's aspect, cropped to whole pixels"
)
_WHOLE_BOX_FORMULA = (
    "s = min(W / w, H / h); l, t = floor((W - w * s + 1) / 2), floor((H - h * s + 1) / 2); "
    "a, b = max(1, floor(w * s + 0.5)), max(1, floor(h * s + 0.5)); "
    "picture.crop((l, t, l + a, t + b)).resize((w, h), BILINEAR)"
)

_SCALED_DESCRIPTION = (
    "JPEG files decoded at the smallest of 1/2, 1/4 and 1/8 of their sides that is not below the input"
)


@dataclass(frozen=True)
class ImageReading:
    """Settings of a data set that decide how its files are read.

    resize     how an image of another aspect gets the size of the input
    max_value  value of white in images of more than 8 bits; None: by their type
    decode     full: Pillow resizes; fast: torch resizes, from a box of whole pixels, and torchcodec decodes
               JPEG files if it is installed; scaled: also, a JPEG is decoded at 1/2, 1/4 or 1/8 of its
               sides if that is not below the input
    """

    resize: ResizeMode = "crop"
    max_value: float | None = None
    decode: DecodeMode = "full"

    @classmethod
    def from_saved_options(cls, data: object) -> ImageReading:
        """Return the settings in the saved options of a data set.

        Those that it lacks, or has with unknown values, are the defaults.
        """
        saved: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {}
        names = {"resize": get_args(ResizeMode), "decode": get_args(DecodeMode)}
        return cls(**{name: saved[name] for name, values in names.items() if saved.get(name) in values})

    @property
    def resize_description(self) -> str:
        """The way of a picture of any size to that of the input, for manifests."""
        text = _WHOLE_BOX_DESCRIPTION if self._has_whole_box else _DESCRIPTIONS[self.resize]
        return f"{_SCALED_DESCRIPTION}; {text}" if self.decode == "scaled" else text

    @property
    def resize_formula(self) -> str:
        """The resize in Pillow; torch's filter agrees with it within a level."""
        return _WHOLE_BOX_FORMULA if self._has_whole_box else _FORMULAS[self.resize]

    @property
    def _has_whole_box(self) -> bool:
        return self.resize == "crop" and self.decode != "full"
