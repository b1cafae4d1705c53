"""Draw an image, and its map over it, as PNG pictures of a page."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.protocols import InputSpec

#: Sides of a picture, pixels: small images are enlarged, large ones reduced.
_SIDE = 112

#: Colors of a map from low to high, and of a map that failed a check.
_HEAT = np.array([[38, 20, 80], [150, 30, 110], [236, 90, 50], [255, 220, 90]], dtype=np.float64)
_GRAY = np.array([[40, 40, 40], [100, 100, 100], [165, 165, 165], [225, 225, 225]], dtype=np.float64)


def restore_pixels(inputs: Tensor, spec: InputSpec) -> NDArray[np.uint8]:
    """Return the pixels [n, height, width, 3] of normalized inputs [n, channels, height, width]."""
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(values, device=inputs.device).view(shape) for values in (spec.mean, spec.std))
    pixels = ((inputs * std + mean).clamp(0, 1) * 255).round().byte().cpu()
    channels = pixels.shape[1]
    pixels = pixels[:, :3] if channels >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    return pixels.permute(0, 2, 3, 1).numpy()


def draw_picture(pixels: NDArray[np.uint8]) -> str:
    """Return an image [height, width, 3] as PNG in base64."""
    return _encode(pixels)


def draw_map(pixels: NDArray[np.uint8], values: NDArray[np.float64], is_trusted: bool) -> str:
    """Return the positive part of a map [height, width] over its image, in color, or in gray if it is not trusted.

    The color of a place and its weight over the image grow with its share of the largest value.
    """
    positive = np.clip(np.nan_to_num(values), 0, None)
    share = positive / max(float(positive.max()), 1e-30)
    palette = _HEAT if is_trusted else _GRAY
    place = share * (len(palette) - 1)
    low = np.minimum(place.astype(int), len(palette) - 2)
    color = palette[low] + (palette[low + 1] - palette[low]) * (place - low)[..., None]
    gray = pixels.astype(np.float64).mean(2, keepdims=True)
    weight = (0.15 + 0.65 * share)[..., None]
    return _encode((gray * (1 - weight) + color * weight).round().clip(0, 255).astype(np.uint8))


def _encode(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = _SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    resized = picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    file = BytesIO()
    resized.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
