"""A source whose images are files, read at need or decoded once into memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.errors import DataError
from dnntrain.input.decode import decode_image, read_image
from dnntrain.input.resize import random_part
from dnntrain.input.unreadable import check_limit
from dnntrain.utils.rng import Key


class FileSource:
    """Images at `paths`, the middle square at `size` pixels a side. `hold`: all are decoded at first use and kept."""

    def __init__(
        self, paths: Sequence[Path], labels: NDArray[np.int64], size: int, channels: int, hold: bool, skip: bool
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.failed: dict[int, str] = {}
        self.size = size
        self.channels = channels
        self._hold = hold
        self._skip = skip
        self._images: Tensor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        return decode_image(self.paths[index], self.channels, (self.size, self.size))

    def resident(self) -> Tensor | None:
        """All images as channels-last bytes, or None. Those skipped are black, and stand in `failed`."""
        if self._hold and self._images is None:
            self._images = self._decoded()
        return self._images

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def _decoded(self) -> Tensor:
        stored = torch.zeros(len(self), self.size, self.size, self.channels, dtype=torch.uint8)
        images = stored.permute(0, 3, 1, 2)

        def decode(index: int) -> DataError | None:
            try:
                images[index] = self.read(index)
            except DataError as error:
                return error
            return None

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for index, error in enumerate(pool.map(decode, range(len(self)))):
                if error is None:
                    continue
                if not self._skip:
                    pool.shutdown(cancel_futures=True)
                    raise error
                self.failed[index] = error.message
        check_limit(self.failed, len(self))
        return images


class RandomPartSource(FileSource):
    """The same, but a random part of an image is trained on each time; so nothing can be held."""

    def read_training(self, index: int, key: Key, number: int) -> Tensor:
        """uint8 [channels, size, size]: a part chosen by `key` and `number`."""
        return read_image(
            self.paths[index], self.channels, lambda picture: random_part(picture, self.size, number, key)
        )
