"""A small network with batch normalisation on two real ranks (gloo) and on one, and what the two compute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from dnntrain.choices.norm.ghost import Ghost
from dnntrain.choices.norm.sync import Sync

EXAMPLES = 8
CHOICES = {"sync": Sync(), "ghost": Ghost(virtual_batch_size=2)}


class TwoRanks:
    """The collectives of two data ranks."""

    data_ranks = 2

    def data_sum(self, tensor: Tensor) -> Tensor:
        return all_reduce(tensor)  # type: ignore[no-any-return, no-untyped-call]

    def data_max(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError

    def sum_of_squares(self, tensors: Any) -> Tensor:
        raise NotImplementedError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
    )


def inputs() -> Tensor:
    # Far from 0, where a plain sum of squares in float32 would lose the variance.
    return 5 + torch.randn(EXAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def computed(model: nn.Module, images: Tensor, scale: float) -> dict[str, Tensor]:
    """Two steps: outputs, gradients of the inputs and the parameters, buffers."""
    found: dict[str, Tensor] = {}
    for step in range(2):
        images = images.detach().requires_grad_()
        model.zero_grad()
        outputs = model(images)
        (outputs.pow(3).sum() * scale / EXAMPLES).backward()
        assert images.grad is not None
        found |= {f"outputs{step}": outputs.detach(), f"inputs{step}": images.grad / scale}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name.removeprefix("module.")] = parameter.grad
    found |= {name.removeprefix("module."): buffer.clone() for name, buffer in model.named_buffers()}
    return found


def on_two_ranks(folder: Path, choice: str, sizes: list[int]) -> list[dict[str, Tensor]]:
    """What each rank computed of its share of `sizes` examples."""
    mp.spawn(_rank, (str(folder), choice, sizes), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _rank(rank: int, folder: str, choice: str, sizes: list[int]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = CHOICES[choice].convert(network(), TwoRanks())  # type: ignore[attr-defined]
    share = inputs().split(sizes)[rank]
    torch.save(computed(DistributedDataParallel(model), share, scale=2.0), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
