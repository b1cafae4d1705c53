"""Generated images: a smooth pattern for each class under noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnntrain.config.fields import Annotated, NonNegative, NonNegativeInt, PositiveInt, Range
from dnntrain.input.options import ImageData
from dnntrain.input.source import ArraySource, DataSet, compute_digest
from dnntrain.protocols import InputSpec, TargetSpec
from dnntrain.utils.rng import Key

#: Images generated at a time, so that their floats take little memory beside the stored bytes.
_BLOCK = 1024


@dataclass(frozen=True)
class Synthetic(ImageData):
    """Image i is `128 + 64 * pattern + 255 * noise * gaussian`, clipped to bytes.

    Its class is i mod classes. A pattern is the product of two waves, along and across, of keyed
    frequency and phase.
    """

    train_size: PositiveInt = 2048  # number of training images
    test_size: PositiveInt = 512  # number of test images
    num_classes: Annotated[int, Range(at_least=2, at_most=10_000)] = 10  # number of classes, in equal proportion
    channels: PositiveInt = 1  # values per pixel
    image_size: PositiveInt = 16  # side of an image, pixels
    noise: NonNegative = 0.25  # standard deviation of pixel noise, as a fraction of the range from black to white
    data_seed: NonNegativeInt = 0  # seed of the patterns; another seed is another data set

    def build(self) -> DataSet:
        patterns = self._make_patterns()
        train = self._make_source(patterns, "train", self.train_size)
        test = self._make_source(patterns, "test", self.test_size)
        pixel_std = float(np.hypot(64 / 255 * 0.5, self.noise))
        option_texts = [f"{name}={getattr(self, name)}" for name in _DIGEST_OPTIONS]
        return DataSet(
            train=train,
            test=test,
            inputs=InputSpec(
                (self.channels, self.image_size, self.image_size),
                mean=(128 / 255,) * self.channels,
                std=(max(pixel_std, 1e-3),) * self.channels,
            ),
            targets=TargetSpec(tuple(f"class {number}" for number in range(self.num_classes))),
            digest=compute_digest(["synthetic", *option_texts]),
        )

    def _make_patterns(self) -> NDArray[np.float32]:
        """Return the patterns [classes, channels, height, width] in [-1, 1]."""
        pattern_index = np.arange(self.num_classes * self.channels)
        key = Key(self.data_seed, "synthetic pattern")
        angles = np.linspace(0, 2 * np.pi, self.image_size, endpoint=False)
        waves = []
        for axis in range(2):
            frequency = 1 + key.integers(pattern_index, 3, 2 * axis)
            phase = 2 * np.pi * key.uniform(pattern_index, 2 * axis + 1)
            waves.append(np.sin(frequency[:, None] * angles + phase[:, None]))
        patterns = waves[0][:, :, None] * waves[1][:, None, :]
        return patterns.reshape(self.num_classes, self.channels, self.image_size, self.image_size).astype(np.float32)

    def _make_source(self, patterns: NDArray[np.float32], split: str, size: int) -> ArraySource:
        import torch

        labels = np.arange(size) % self.num_classes
        images = np.empty((size, *patterns.shape[1:]), dtype=np.uint8)
        key = Key(self.data_seed, f"synthetic {split}")
        values = patterns[0].size
        for start in range(0, size, _BLOCK):
            block = slice(start, min(start + _BLOCK, size))
            pixels = np.arange(block.start * values, block.stop * values)
            # The sum of four uniform numbers approximates a gaussian, and is the same on every machine.
            total = sum(key.uniform(pixels, draw).astype(np.float32) for draw in range(4))
            gaussian = ((total - 2.0) * np.sqrt(3.0)).astype(np.float32).reshape(-1, *patterns.shape[1:])
            images[block] = (128 + 64 * patterns[labels[block]] + 255 * self.noise * gaussian).clip(0, 255)
        return ArraySource(torch.from_numpy(images), labels.astype(np.int64), f"synthetic {split}")


_DIGEST_OPTIONS = ("train_size", "test_size", "num_classes", "channels", "image_size", "noise", "data_seed")
