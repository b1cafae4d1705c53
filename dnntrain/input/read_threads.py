"""Read many files at once, in threads: decoders release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dnntrain.utils.hardware import count_cores

Result = TypeVar("Result")

_MAX_THREADS = 8


def map_in_threads(function: Callable[[int], Result], numbers: Sequence[int]) -> Iterator[Result]:
    """Yield `function` of each number, in order, from a thread for each usable core, at most 8.

    The first exception of `function` is raised in its place, and calls that wait are dropped.
    """
    pool = ThreadPoolExecutor(min(_MAX_THREADS, count_cores()))
    try:
        yield from pool.map(function, numbers)
    finally:
        pool.shutdown(cancel_futures=True)
