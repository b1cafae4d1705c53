"""Keep decoded inputs in memory that several processes share: a rank, those that it forks, and other ranks."""

from __future__ import annotations

import math
import mmap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from dnntrain.errors import DataError
from dnntrain.input.masks import MaskSource
from dnntrain.input.read_threads import map_in_threads
from dnntrain.utils.memory_size import is_memory_scarce
from dnntrain.utils.shared_pages import open_forked_memory

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.input.source import Source
    from dnntrain.utils.rng import Index

#: Returns zeros of so many bytes, which several processes share; None if there is no room.
OpenMemory = Callable[[int], mmap.mmap | None]

#: Inputs after which a process looks again how much memory is available.
_PUTS_PER_LOOK = 128

_FENCE = threading.Lock()


@runtime_checkable
class CachingSource(Protocol):
    """A source that keeps what it decodes once its cache is open."""

    @property
    def has_cache(self) -> bool: ...

    def open_cache(self, open_memory: OpenMemory = open_forked_memory) -> None:
        """Keep from now on what `read` decodes, also what other processes of the same memory decode.

        The first call opens the memory, and later ones do nothing.
        """
        ...

    def has_cached(self, indices: Index) -> bool:
        """Return whether all examples `indices` are kept, less those that this process knows to be unreadable."""
        ...

    def get_cached_inputs(self) -> Tensor:
        """Return the inputs in the cache, uint8 [count, channels, height, width]: zeros for those not kept."""
        ...


class DecodedCache:
    """Decoded inputs of `shape` [height, width, channels] by number, each kept once it is put.

    The memory from `open_memory` belongs to several processes. Inputs that are never put take no
    memory. Two processes that decode the same input write the same bytes. While the memory of the
    machine is scarce, or if there is none, nothing more is kept.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], open_memory: OpenMemory = open_forked_memory) -> None:
        size = math.prod(shape)
        memory = open_memory(count * (size + 1))
        self.has_memory = memory is not None
        values = np.zeros(0, np.uint8) if memory is None else np.frombuffer(memory, np.uint8, count * (size + 1))
        self._inputs = values[: count * size].reshape(-1, *shape)
        self._is_present = values[count * size :]
        self._puts = 0
        self._is_scarce = False

    def get(self, index: int) -> Tensor | None:
        """Return a copy of an input, uint8 [channels, height, width]; None if it is not kept yet."""
        import torch

        if not self.has_memory or not self._is_present[index]:
            return None
        _order_accesses()
        return torch.from_numpy(self._inputs[index].copy()).permute(2, 0, 1)

    def read(self, index: int, decode: Callable[[int], Tensor]) -> Tensor:
        """Return the kept input, or decode it and keep the result."""
        kept = self.get(index)
        if kept is not None:
            return kept
        values = decode(index)
        self.put(index, values)
        return values

    def has(self, indices: Index) -> bool:
        """Return whether all inputs `indices` are kept."""
        return self.has_memory and bool(self._is_present[indices].all())

    def get_all(self) -> Tensor:
        """Return the memory of all inputs, uint8 [count, channels, height, width]: zeros for those not kept."""
        import torch

        _order_accesses()
        return torch.from_numpy(self._inputs).permute(0, 3, 1, 2)

    def put(self, index: int, values: Tensor) -> None:
        """Keep an input, uint8 [channels, height, width], unless memory is scarce."""
        if not self.has_memory:
            return
        if self._puts % _PUTS_PER_LOOK == 0:
            self._is_scarce = is_memory_scarce()
        self._puts += 1
        if not self._is_scarce:
            self._inputs[index] = values.permute(1, 2, 0).numpy()
            _order_accesses()
            self._is_present[index] = 1


def fill_cache(source: Source, indices: Index, seconds: float = math.inf) -> bool:
    """Read the examples `indices` that the cache of a source lacks, for at most about `seconds`.

    Returns whether the time sufficed for all. Unreadable examples are left to the reader. Does nothing
    for a source without a cache.
    """
    if not isinstance(source, CachingSource) or not source.has_cache:
        return True
    deadline = time.perf_counter() + seconds

    def read(index: int) -> bool:
        if source.has_cached(np.array([index])):
            return True
        if time.perf_counter() >= deadline:
            return False
        with suppress(DataError):
            source.read(index)
            if isinstance(source, MaskSource):
                source.read_mask(index)
        return True

    return all(list(map_in_threads(read, indices.tolist())))


def _order_accesses() -> None:
    """Let no access to memory pass this point: some processors exchange them, and other processes would see it.

    Accesses before the release of a lock end before it, and those after it is taken again start later.
    """
    with _FENCE:
        pass
    with _FENCE:
        pass
