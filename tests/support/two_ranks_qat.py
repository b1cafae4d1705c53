"""Twenty steps of quantisation-aware training of a small residual network, in float64, on one process and on two real ranks (gloo)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stand_ins import context
from torch import Tensor
from torch.nn.functional import cross_entropy

from dnntrain.choices.model._basic_resnet import ResidualNetwork
from dnntrain.choices.quant.qat import Qat
from dnntrain.protocols import Collectives, SingleProcess, StepInfo, TrainerHandles
from dnntrain.training.scheduled_values import bind_scheduled_values
from dnntrain.utils.units import Duration

EXAMPLES, STEPS = 12, 20


class TwoRanks:
    """The collectives of two data ranks."""

    data_ranks = 2

    def data_sum(self, tensor: Tensor) -> Tensor:
        found = tensor.clone()
        dist.all_reduce(found)
        return found

    def data_max(self, tensor: Tensor) -> Tensor:
        found = tensor.clone()
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found

    def sum_of_squares(self, tensors: Any) -> Tensor:
        raise NotImplementedError


def losses_and_ranges(share: slice, collect: Collectives) -> tuple[list[float], Tensor]:
    """The mean loss over all ranks of each step, and the ranges at the end."""
    torch.manual_seed(0)
    model = ResidualNetwork(1, 4, widths=(4, 8), blocks=(1, 1), shortcut="pad", small_stem=True, zero_residual=False)
    images = torch.randn(EXAMPLES, 1, 8, 8, dtype=torch.float64)[share]
    labels = torch.arange(EXAMPLES)[share] % 4
    parts = Qat(freeze_batch_norm=Duration(0, "%")).build(replace(context(total_steps=STEPS), collectives=collect))
    model = parts.model_transforms[0].apply(model).double().train()  # type: ignore[assignment]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for hook in parts.after_step_hooks:
        hook.bind(TrainerHandles(model, [optimizer], lambda steps: iter(()), collect))  # type: ignore[attr-defined]
    controls = bind_scheduled_values(parts.scheduled_values, [optimizer], model)
    losses = []
    for step in range(STEPS):
        moment = StepInfo(step, step / 10, step / STEPS)
        for control in controls:
            control(moment)
        loss = cross_entropy(model(images), labels, reduction="sum") / EXAMPLES
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad = collect.data_sum(parameter.grad)
        optimizer.step()
        for after in parts.after_step_hooks:
            after(moment)
        losses.append(collect.data_sum(loss.detach()).item())
    return losses, torch.stack(list(parts.state["quant"].state_dict()["reach"].values()))


def trained_alone() -> tuple[list[float], Tensor]:
    return losses_and_ranges(slice(None), SingleProcess())


def trained_on_two_ranks(folder: Path) -> list[tuple[list[float], Tensor]]:
    """Of each rank; the first has more examples than the second."""
    mp.spawn(_rank, (str(folder),), nprocs=2)  # type: ignore[no-untyped-call]
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return [(item["losses"], item["reach"]) for item in found]


def _rank(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    losses, reach = losses_and_ranges((slice(0, 7), slice(7, EXAMPLES))[rank], TwoRanks())
    torch.save({"losses": losses, "reach": reach}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
