"""Simulate a process group with torch's fake backend, which sends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def fake_process_group(ranks: int, rank: int) -> Iterator[None]:
    """Make this process rank `rank` of `ranks` within the context.

    Received tensors have the right shapes and arbitrary values. There must be no other process group.
    """
    # The import registers the backend.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
