"""Bytes to floats: (value / 255 - mean) / std for each channel."""

from __future__ import annotations

import torch
from torch import Tensor


class Normaliser:
    """Writes uint8 images as float32 ones, as `(value - 255 * mean) * (1 / (255 * std))`.

    These are two operations, each rounded once, so that a value's result does not depend on where it stands in which tensor:
    every pipeline gives the same bits. Images come and go as rows of bytes; one row holds the pixels of one image.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: str) -> None:
        self.shift = torch.tensor([255.0 * value for value in mean], device=device)
        self.scale = torch.tensor([1.0 / (255.0 * value) for value in std], device=device)
        self._patterns: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    def __call__(self, rows: Tensor, interleaved: bool, out: Tensor) -> Tensor:
        """`rows` uint8 [n, values of one image] to `out` float32 of the same shape.

        `interleaved`: a pixel's channels are neighbours (channels-last bytes), else each channel is a whole plane.
        """
        shift, scale = self._pattern(rows.shape[1], interleaved)
        return out.copy_(rows).sub_(shift).mul_(scale)

    def _pattern(self, width: int, interleaved: bool) -> tuple[Tensor, Tensor]:
        """Shift and scale of each value of a row: whole rows, as a broadcast over three channels runs several times slower."""
        channels = len(self.shift)
        if channels == 1:
            return self.shift, self.scale
        if (width, interleaved) not in self._patterns:
            pixels = width // channels
            spread = (lambda value: value.repeat(pixels)) if interleaved else (lambda value: value.repeat_interleave(pixels))
            self._patterns[width, interleaved] = (spread(self.shift), spread(self.scale))
        return self._patterns[width, interleaved]
