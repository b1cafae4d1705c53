"""Normalize inputs: pixels as (value / 255 - mean) / std, numbers of a row as (value - mean) / std."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from dnntrain.protocols import InputSpec

#: A function that converts stored inputs to those of a model.
AnyNormalizer: TypeAlias = "Normalizer | RowNormalizer | TokenNormalizer"


def make_normalizer(inputs: InputSpec, device: str, channels_last: bool) -> AnyNormalizer:
    """Return the function that converts stored inputs of this form to those of a model."""
    if inputs.vocabulary is not None:
        return TokenNormalizer(inputs)
    if inputs.columns:
        return RowNormalizer(inputs, device)
    channels, height, width = inputs.shape
    return Normalizer((channels, height, width), inputs.mean, inputs.std, device, channels_last)


class TokenNormalizer:
    """Copies the tokens of a text, integers [n, length], to int64."""

    def __init__(self, inputs: InputSpec) -> None:
        self.shape = inputs.shape

    def __call__(self, rows: Tensor, out: Tensor) -> Tensor:
        """Copy `rows` [n, length] into the memory of `out` [n, length], and return it."""
        return out.copy_(rows)


class RowNormalizer:
    """Converts rows of numbers less `inputs.offsets`, float32 [n, columns]. A missing number becomes 0, the mean."""

    def __init__(self, inputs: InputSpec, device: str) -> None:
        self.shape = inputs.shape
        means = [mean - offset for mean, offset in zip(inputs.mean, inputs.offsets, strict=True)]
        self.shift = torch.tensor(means, device=device)
        self.scale = torch.tensor([1.0 / value for value in inputs.std], device=device)

    def __call__(self, rows: Tensor, out: Tensor) -> Tensor:
        """Normalize `rows` [n, columns] into the memory of `out` [n, columns], and return it."""
        return out.copy_(rows).sub_(self.shift).mul_(self.scale).nan_to_num_(0.0)


class Normalizer:
    """Converts uint8 images to float32, as `(value - 255 * mean) * (1 / (255 * std))`.

    These are two operations, each rounded once. A result therefore does not depend on the position
    of the value in a tensor, and every pipeline gives the same bits. `shape` is (channels, height,
    width).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: str,
        channels_last: bool,
    ) -> None:
        self.shape = shape
        self.channels_last = channels_last
        channels, height, width = shape
        shift = torch.tensor([255.0 * value for value in mean], device=device)
        scale = torch.tensor([1.0 / (255.0 * value) for value in std], device=device)
        if channels > 1:
            # Whole rows of factors: a broadcast over three adjacent channels runs several times
            # slower.
            pixels = height * width
            shift = shift.repeat(pixels) if channels_last else shift.repeat_interleave(pixels)
            scale = scale.repeat(pixels) if channels_last else scale.repeat_interleave(pixels)
        self.shift, self.scale = shift, scale

    def __call__(self, rows: Tensor, out: Tensor) -> Tensor:
        """Normalize `rows` uint8 [n, values] into the memory of `out` [n, values].

        Returns float32 [n, channels, height, width], channels-last if the normalizer is. A row is
        one image; the channels of a pixel are adjacent.
        """
        channels, height, width = self.shape
        if channels > 1 and not self.channels_last:
            rows = rows.view(len(rows), height, width, channels).permute(0, 3, 1, 2).reshape(len(rows), -1)
        out.copy_(rows).sub_(self.shift).mul_(self.scale)
        if self.channels_last:
            # With one channel both formats describe the same bytes; convolutions read the format
            # from the strides.
            return out.view(len(rows), height, width, channels).permute(0, 3, 1, 2)
        return out.view(len(rows), channels, height, width)
