"""A short last batch, an idle rank and joint statistics: every layout trains the run of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_pool import Pool
from short_runs import comparable

#: Not deep, so that rounding does not grow; it cannot compute zero rows, as most networks of others cannot.
NETWORK = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        super().__init__(
            nn.Conv2d(in_channels, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes),
        )

    def forward(self, images):
        return super().forward(images).reshape(images.shape[0], -1)
"""
LINE = (
    "model=custom",
    "model.name=Net",
    "train.batch_size=16",
    "train.duration=2ep",
    "log.every=1step",
    "log.report=false",
    "precision=fp32",
    "optim=sgd",
    "optim.lr=0.02",
    "eval.max_examples=41",
    "eval.batch_size=8",
    "eval.run_test=false",
    "reg=[]",
)
SYNC, GHOST = ("norm=sync",), ("norm=ghost", "norm.virtual_batch_size=4")
PLAIN, MIXED = ("augment=[]",), ("augment=[mixup]",)
DDP2, FSDP2, HSDP4 = (2, "parallel=ddp"), (2, "parallel=fsdp"), (4, "parallel=hsdp")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "micro_batch_size", "layouts"),
    [
        # 13 examples in the last step, in shares of 7 and 6, or of a block and the rest.
        (("train.max_examples=61", *SYNC, *PLAIN), None, (DDP2, FSDP2, HSDP4)),
        (("train.max_examples=61", *SYNC, *MIXED), None, (DDP2,)),
        (("train.max_examples=61", *GHOST, *PLAIN), None, (DDP2, FSDP2)),
        # One block of 8 examples in the last step: a rank is idle.
        (("train.max_examples=56", *SYNC, *MIXED), None, (DDP2, FSDP2)),
        (("train.max_examples=56", *SYNC, *MIXED, "norm.precise_bn_batches=4"), None, (DDP2, FSDP2)),
        (("train.max_examples=56", *SYNC, *MIXED, "distill=mean_teacher"), None, (DDP2,)),
        (("train.max_examples=49", *SYNC, *PLAIN), None, (DDP2, FSDP2)),
        # Micro-batches of all ranks are those of one process.
        (("train.max_examples=61", *SYNC, *PLAIN), 8, (DDP2, HSDP4)),
        (("train.max_examples=61", *SYNC, *PLAIN, "train.drop_last=true"), None, (DDP2,)),
        (("train.max_examples=61", *SYNC, *PLAIN, "data.pipeline=streaming", "data.num_workers=1"), None, (DDP2,)),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_ranks_train_the_run_of_one_process(
    words: tuple[str, ...],
    micro_batch_size: int | None,
    layouts: tuple[tuple[int, str], ...],
    tmp_path: Path,
    pool: Pool,
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    line = (*LINE, *words, f"model.file={tmp_path}/net.py")
    micro = micro_batch_size and f"train.micro_batch_size={micro_batch_size}"
    assert not pool.train(1, (*line, *([micro] if micro else [])), tmp_path / "one").error
    expected = comparable(tmp_path / "one")
    for ranks, layout in layouts:
        share = micro_batch_size and f"train.micro_batch_size={micro_batch_size // ranks}"
        outcome = pool.train(ranks, (*line, layout, *([share] if share else [])), tmp_path / layout)
        assert not outcome.error, outcome.error
        losses = comparable(tmp_path / layout)
        assert [row["loss"] for row in losses] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
        assert [row.get("accuracy") for row in losses] == [row.get("accuracy") for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [DDP2, FSDP2], ids=lambda layout: layout[1])
@pytest.mark.parametrize("augment", ["[]", "[mixup]"])
def test_a_network_of_others_is_never_called_without_examples(
    layout: tuple[int, str], augment: str, tmp_path: Path, pool: Pool
) -> None:
    pytest.importorskip("timm")
    line = (
        *LINE[3:],
        "model=timm",
        "model.name=test_vit",
        "data=synthetic",
        "data.image_size=160",
        "data.channels=3",
        "data.train_size=60",
        "data.val_fraction=0.2",
        "eval.max_examples=9",
        "eval.batch_size=4",
        "train.batch_size=16",
        "train.duration=1ep",
        f"train.max_examples={17 if augment == '[]' else 24}",
        f"augment={augment}",
    )
    ranks, name = layout
    line = tuple({word.split("=")[0]: word for word in line}.values())
    for count, words, folder in ((1, (), "one"), (ranks, (name,), "ranks")):
        outcome = pool.train(count, (*line, *words), tmp_path / folder)
        assert not outcome.error, outcome.error
    expected, losses = (comparable(tmp_path / folder) for folder in ("one", "ranks"))
    assert [row["loss"] for row in losses] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
