"""A process group of ranks that are not there: torch's own fake one, whose collectives give nothing and cost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def fake_process_group(ranks: int, rank: int) -> Iterator[None]:
    """Within it this process is `rank` of `ranks`. Shapes are right, what is received is not. No other group may be there."""
    # The import makes the backend known to torch.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
