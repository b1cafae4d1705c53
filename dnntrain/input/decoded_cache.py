"""Keep decoded inputs in memory that several processes share: a rank, those that it forks, and other ranks."""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from dnntrain.errors import DataError
from dnntrain.input.masks import MaskSource
from dnntrain.input.read_threads import map_in_threads
from dnntrain.utils.memory_size import is_memory_scarce
from dnntrain.utils.zero_pages import open_private_memory

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.input.source import Source
    from dnntrain.utils.rng import Index


#: Returns zeros of so many bytes, which several processes share; None if there is no room.
OpenMemory = Callable[[int], mmap.mmap | None]

#: Inputs after which a process looks again how much memory is available.
_PUTS_PER_LOOK = 64


@runtime_checkable
class CachingSource(Protocol):
    """A source that can keep what it decodes; it does so if `keeps_read`."""

    @property
    def keeps_read(self) -> bool: ...

    def keep_read(self, open_memory: OpenMemory = open_private_memory) -> None:
        """Keep from now on what `read` decodes, also what other processes of the same memory decode.

        The first call opens the memory, and later ones do nothing.
        """
        ...

    def has_kept(self, indices: Index) -> bool:
        """Return whether all examples `indices` are kept."""
        ...


class DecodedCache:
    """Decoded inputs of `shape` [height, width, channels] by number, each kept once it is put.

    The memory from `open_memory` belongs to several processes. Pages that were never written take no
    memory. Two processes that decode the same input write the same bytes. When the memory of the
    machine becomes scarce, or if there is none, nothing more is kept.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], open_memory: OpenMemory = open_private_memory) -> None:
        size = math.prod(shape)
        memory = open_memory(count * (size + 1))
        self._has_memory = memory is not None
        values = np.zeros(0, np.uint8) if memory is None else np.frombuffer(memory, np.uint8, count * (size + 1))
        self._inputs = values[: count * size].reshape(-1, *shape)
        self._is_present = values[count * size :]
        self._puts = 0
        self._is_full = not self._has_memory

    def get(self, index: int) -> Tensor | None:
        """Return a copy of an input, uint8 [channels, height, width]; None if it is not kept yet."""
        import torch

        if not self._has_memory or not self._is_present[index]:
            return None
        return torch.from_numpy(self._inputs[index].copy()).permute(2, 0, 1)

    def has(self, indices: Index) -> bool:
        """Return whether all inputs `indices` are kept."""
        return self._has_memory and bool(self._is_present[indices].all())

    def get_all(self) -> Tensor | None:
        """Return all inputs in the memory of this cache, uint8 [count, channels, height, width]; None if one is missing."""
        import torch

        return (
            torch.from_numpy(self._inputs).permute(0, 3, 1, 2) if self._has_memory and self._is_present.all() else None
        )

    def put(self, index: int, values: Tensor) -> None:
        """Keep an input, uint8 [channels, height, width], unless memory is scarce."""
        if self._puts % _PUTS_PER_LOOK == 0 and self._has_memory:
            self._is_full = is_memory_scarce()
        self._puts += 1
        if self._is_full:
            return
        self._inputs[index] = values.permute(1, 2, 0).numpy()
        self._is_present[index] = 1


def read_kept_examples(source: Source, seconds: float = math.inf) -> None:
    """Read all examples of a source that keeps them, for at most about `seconds`.

    Unreadable examples are left to the reader.
    """
    if isinstance(source, CachingSource) and source.keeps_read:
        deadline = time.perf_counter() + seconds

        def read(index: int) -> None:
            if time.perf_counter() < deadline:
                with suppress(DataError):
                    source.read(index)
                    if isinstance(source, MaskSource):
                        source.read_mask(index)

        for _ in map_in_threads(read, range(len(source))):
            pass
