"""Open memory that processes share. Imports no torch."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress


def can_share_with_forks() -> bool:
    """Return whether processes that this one starts share its memory: where they are forked."""
    return hasattr(os, "fork")


def can_share_between_ranks() -> bool:
    """Return whether this system has files in memory that other processes can open: Linux."""
    return hasattr(os, "memfd_create")


def open_forked_memory(size_bytes: int) -> mmap.mmap | None:
    """Return zeros that this process shares with those that it forks; None if the system has no room.

    Pages take memory once they are written.
    """
    with suppress(OSError):
        if not can_share_between_ranks():
            return mmap.mmap(-1, max(1, size_bytes))
        # Unlike for other memory, the system does not ask for room for the pages that are never written.
        descriptor, memory = make_memory_file(max(1, size_bytes))
        os.close(descriptor)
        return memory
    return None


def make_memory_file(size_bytes: int) -> tuple[int, mmap.mmap]:
    """Return the descriptor of a new file in memory (memfd_create(2)), and its bytes: zeros.

    Raises OSError if the system has no room.
    """
    descriptor = os.memfd_create("dnntrain")
    try:
        os.ftruncate(descriptor, size_bytes)
        return descriptor, mmap.mmap(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise
