"""Serve images from files: read on demand or decoded once into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.decode import decode_image, read_image
from dnntrain.input.decoded_cache import DecodedCache, OpenMemory
from dnntrain.input.read_threads import map_in_threads
from dnntrain.input.resize import place_random_crop
from dnntrain.input.unreadable import check_failure_limit
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.shared_pages import open_forked_memory

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN = ImageReading()


class FileSource:
    """Images at `paths`, at `size` (height, width) pixels.

    With `keep_decoded`, all images are decoded at first use and kept.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int64],
        size: tuple[int, int],
        channels: int,
        keep_decoded: bool,
        skip_unreadable: bool,
        keys: Sequence[str] | None = None,
        reading: ImageReading = _PLAIN,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.keys = keys
        self.reading = reading
        self.failures: dict[int, str] = {}
        self.size = size
        self.channels = channels
        self._keep_decoded = keep_decoded
        self._skip_unreadable = skip_unreadable
        self._images: Tensor | None = None
        self._cache: DecodedCache | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        return self.decode(index) if self._cache is None else self._cache.read(index, self.decode)

    def decode(self, index: int) -> Tensor:
        """Return what `read` returns, from the file."""
        return decode_image(self.paths[index], self.channels, self.size, self.reading)

    @property
    def has_cache(self) -> bool:
        return self._cache is not None and self._cache.has_memory

    def open_cache(self, open_memory: OpenMemory = open_forked_memory) -> None:
        if self._cache is None:
            self._cache = DecodedCache(len(self), (*self.size, self.channels), open_memory)

    def has_cached(self, indices: Index) -> bool:
        return self._cache is not None and self._cache.has(self.select_readable(indices))

    def select_readable(self, indices: Index) -> Index:
        """Return `indices` without those in `failures`."""
        return indices[~np.isin(indices, list(self.failures))] if self.failures else indices

    def get_cached_inputs(self) -> Tensor:
        assert self._cache is not None, "the cache is not open"
        return self._cache.get_all()

    def get_resident_inputs(self) -> Tensor | None:
        """Return all images as channels-last bytes, or None.

        Skipped images are black and listed in `failures`.
        """
        if self._keep_decoded and self._images is None:
            self._images = self._decode_all()
        return self._images

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def _decode_all(self) -> Tensor:
        import torch

        channels_last_images = torch.zeros(len(self), *self.size, self.channels, dtype=torch.uint8)
        images = channels_last_images.permute(0, 3, 1, 2)

        def decode(index: int) -> str | None:
            try:
                images[index] = self.decode(index)
            except DataError as error:
                if not self._skip_unreadable:
                    raise
                return error.message
            return None

        for index, reason in enumerate(map_in_threads(decode, range(len(self)))):
            if reason is not None:
                self.failures[index] = reason
        check_failure_limit(self.failures, len(self))
        return images


class RandomCropSource(FileSource):
    """A FileSource that reads a random crop for training.

    Decoded images therefore cannot be kept.
    """

    def read_for_training(self, index: int, key: Key, rng_index: int) -> Tensor:
        """Return a crop chosen by `key` and `rng_index`: uint8 [channels, height, width]."""
        return read_image(
            self.paths[index],
            self.channels,
            self.size,
            lambda whole: place_random_crop(whole, self.size, rng_index, key),
            self.reading,
        )
