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


def open_private_memory(size_bytes: int) -> mmap.mmap | None:
    """Return zeros that this process shares with those that it forks; None if the system has no room."""
    with suppress(OSError):
        return mmap.mmap(-1, max(1, size_bytes))
    return None
