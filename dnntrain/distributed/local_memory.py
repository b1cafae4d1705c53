"""Open memory that the ranks of one machine share."""

from __future__ import annotations

import mmap
import os
import secrets
import struct

import torch
from torch import Tensor

from dnntrain.distributed.collectives import gather_tensors
from dnntrain.utils.shared_pages import can_share_between_ranks, make_memory_file, open_forked_memory
from dnntrain.utils.world import World

#: Bytes after the shared ones by which a rank knows that it has opened the right memory.
_TOKEN = struct.Struct("<2q")


def open_local_memory(size_bytes: int, world: World, device: str) -> mmap.mmap | None:
    """Return zeros that the ranks of this machine share with each other, and with the processes that they fork.

    All ranks call it, with the same size. The first rank of a machine makes a file in memory,
    which the others open in /proc. A rank that cannot open it, as in a container of
    its own, gets memory of its own. The system frees the memory when the last of the processes ends.
    """
    if world.size == 1 or not can_share_between_ranks():
        return open_forked_memory(size_bytes)
    token = struct.unpack("<2q", secrets.token_bytes(_TOKEN.size))
    descriptor, memory = -1, None
    if world.local_rank == 0:
        descriptor, memory = _make_file(size_bytes, token)
    address = torch.tensor([os.getpid(), descriptor, *token])
    # Ranks of one machine are numbered in a row; the token shows whether that is so here.
    first = gather_tensors(address, device)[world.rank - world.local_rank]
    if world.local_rank != 0:
        memory = _open_file(first, size_bytes)
    gather_tensors(torch.zeros(1), device)  # the file has a name only until its first rank closes it
    if descriptor >= 0:
        os.close(descriptor)
    return memory if memory is not None else open_forked_memory(size_bytes)


def _make_file(size_bytes: int, token: tuple[int, ...]) -> tuple[int, mmap.mmap | None]:
    """Return the descriptor of a new file in memory with the token at its end, and its bytes; -1 without room."""
    try:
        descriptor, memory = make_memory_file(size_bytes + _TOKEN.size)
    except OSError:
        return -1, None
    _TOKEN.pack_into(memory, size_bytes, *token)
    return descriptor, memory


def _open_file(address: Tensor, size_bytes: int) -> mmap.mmap | None:
    """Return the bytes of the file of another process; None if it cannot be opened or is another one."""
    process, number, *token = address.tolist()
    if number < 0:
        return None
    try:
        descriptor = os.open(f"/proc/{process}/fd/{number}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_size != size_bytes + _TOKEN.size:
            return None
        memory = mmap.mmap(descriptor, size_bytes + _TOKEN.size)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return memory if list(_TOKEN.unpack_from(memory, size_bytes)) == token else None
