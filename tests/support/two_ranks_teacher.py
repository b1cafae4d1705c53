"""A teacher in parts on two real ranks (gloo), beside the whole one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from students import of_digits
from torch.distributed.tensor import DTensor

from dnntrain.choices.distill._load_teacher import load_teacher
from dnntrain.choices.distill._options import TeacherOptions
from dnntrain.choices.distill._teacher_runner import TeacherRunner, TeacherTap
from dnntrain.distributed.mesh import Mesh, MeshCollectives
from dnntrain.distributed.parallel_dims import ParallelDims

#: Images of each rank: three forward passes of the first, none that the second would need.
SHARES = (70, 0)


def outputs_on_two_ranks(teacher: Path, tapped: str, folder: Path) -> list[dict[str, Any]]:
    """Of each rank: numbers of the teacher, those that lie here between two calls, outputs in parts and whole."""
    mp.spawn(_rank, (str(teacher), tapped, str(folder)), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _rank(rank: int, teacher: str, tapped: str, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    context = replace(of_digits(), collectives=MeshCollectives(Mesh(ParallelDims(shard=2), "cpu")))
    images = torch.randn(sum(SHARES), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = images.split(SHARES)[rank]
    found = {}
    for kind in ("never", "always"):
        knobs = TeacherOptions(teacher=teacher, teacher_shard=kind)
        loaded = load_teacher(teacher, context, True)
        runner = TeacherRunner([loaded], context, knobs, [TeacherTap("tapped", tapped)], True)
        found[kind] = runner(images)
    weights = list(loaded.model.parameters())
    here = sum(weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in weights)
    numbers = {"whole": sum(weight.numel() for weight in weights), "here": here}
    torch.save({**numbers, **found}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
