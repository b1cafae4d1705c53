"""The layout table: every kind of parallelism, on 1 to 4 real ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrangement:
    """A column of the table: its name, the number of ranks, and what is typed for it."""

    name: str
    ranks: int
    overrides: tuple[str, ...] = ()


#: Each rank of a pipeline holds two stages: the first half of the model is on all of them, and so is the second.
INTERLEAVED = ("parallel.schedule=interleaved", "parallel.stages_per_rank=2")

LAYOUTS = (
    Arrangement("ddp 2", 2, ("parallel=ddp",)),
    Arrangement("ddp 4", 4, ("parallel=ddp",)),
    Arrangement("fsdp 2", 2, ("parallel=fsdp",)),
    Arrangement("hsdp 2×2", 4, ("parallel=hsdp",)),
    Arrangement("tp 2", 2, ("parallel=tp",)),
    Arrangement("fsdp 2 × tp 2", 4, ("parallel=fsdp", "parallel.shard=2", "parallel.tp=2")),
    Arrangement("pp 2", 2, ("parallel=pp",)),
    Arrangement("ddp 2 × pp 2", 4, ("parallel=pp", "parallel.pp=2", "parallel.replicate=2", *INTERLEAVED)),
    Arrangement("accumulate 4", 1, ("train.micro_batch_size=8",)),
)
