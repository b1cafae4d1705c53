"""Penalties, mixing, SAM and clipping over 20 steps on two ranks, on shards and under accumulation: the losses of one process."""

from __future__ import annotations

import pytest
from composition import Composition
from layouts import LAYOUTS, Arrangement
from methods import BASE, MLP, Tried, line
from rank_pool import Pool

COMPARED = tuple(layout for layout in LAYOUTS if layout.name in {"ddp 2", "fsdp 2", "accumulate 4"})

METHODS = {
    "l1": ("reg=[l1]",),
    "weight_decay": ("reg=[]", "optim.decoupled_weight_decay=true", "optim.weight_decay=0.05"),
    "mixup": (
        "reg=[]",
        "augment=[crop,flip,mixup]",
    ),
    "cutmix": (
        "reg=[]",
        "augment=[crop,flip,cutmix]",
    ),
    "sam": ("reg=[sam]",),
    "clip norm": ("reg=[grad_clip]", "reg.grad_clip.max=0.5"),
    "clip value": ("reg=[grad_clip]", "reg.grad_clip.mode=value", "reg.grad_clip.max=0.01"),
    "l1, mixup, sam, clip norm": ("reg=[l1,sam,grad_clip]", "augment=[crop,flip,mixup]", "reg.grad_clip.max=0.5"),
}

#: The last step of an epoch has 8 examples, the others 32.
LENGTH = ("train.duration=20step", "eval.every=10step", "checkpoint.every=20step")


@pytest.fixture(scope="module")
def table(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Composition:
    return Composition(pool, tmp_path_factory.mktemp("reg"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", COMPARED, ids=lambda layout: layout.name)
@pytest.mark.parametrize("name", METHODS)
def test_twenty_losses_are_those_of_one_process(name: str, layout: Arrangement, table: Composition) -> None:
    cell = table.cell(Tried(name, line(*MLP, *BASE, *LENGTH, *METHODS[name])), layout)
    assert cell.kind == "equal", cell.note
