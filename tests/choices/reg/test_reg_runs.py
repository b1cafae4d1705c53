"""One short real run of each method, and the combinations that are refused before anything starts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from short_runs import rows, trained

from dnntrain.cli.main import main

#: Few steps, with micro-batches and an uneven last step.
STEPS = ("train.duration=12step", "train.limit=100", "train.batch_size=32", "train.microbatch=16", "eval.test=false")


@pytest.mark.parametrize(
    "words",
    [
        ("reg=[mixup]",),
        ("reg=[cutmix,label_smoothing]",),
        ("reg=[mixup,cutmix,random_erasing,ema]",),
        ("reg=[dropout]",),
        ("reg=[dropout]", "model=resnet20", "reg.dropout.before=head", "train.duration=2step"),
        ("reg=[drop_path,dropblock]", "model=resnet20", "train.duration=2step"),
        ("reg=[drop_path]", "model=vit_tiny", "model.depth=2", "train.duration=2step"),
        ("reg=[l1,weight_decay]", "optim.weight_decay=0"),
        ("reg=[weight_decay]", "optim=muon", "optim.weight_decay=0"),
        ("reg=[grad_clip]", "reg.grad_clip.kind=adaptive"),
        ("reg=[sam,mixup,grad_clip,dropout,ema]",),
        ("reg=[swa]", "model=resnet20", "train.duration=8step", "reg.swa.batches=2"),
    ],
    ids=" ".join,
)
def test_a_method_trains_with_finite_loss(words: tuple[str, ...], tmp_path: Path) -> None:
    given = {word.split("=")[0] for word in words}
    trained(tmp_path / "run", *[word for word in STEPS if word.split("=")[0] not in given], *words)
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("reg=[mixup]", "data.pair_block=1"), ("data.pair_block=1", "use data.pair_block=8")),
        (("reg=[cutmix]", "train.microbatch=4"), ("train.microbatch=4", "data.pair_block=4")),
        (
            ("reg=[mixup]", "parallel=ddp", "launch.nproc=2", "train.batch_size=12"),
            ("2 ranks", "train.batch_size=12", "data.pair_block=6"),
        ),
        (("reg=[dropout]", "model.dropout=0.2"), ("model.dropout=0.2", "reg.dropout.rate=0.1")),
        (("reg=[grad_clip]", "train.clip_norm=1"), ("reg.grad_clip", "use train.clip_norm=null")),
        (
            ("reg=[weight_decay]",),
            ("optim.weight_decay=0.01", "reg.weight_decay.rate=0.05", "use optim.weight_decay=0"),
        ),
        (("reg=[ema,swa]",), ("reg.ema", "reg.swa")),
        (
            ("reg=[swa]", "model=resnet20", "norm=per_rank", "norm.precise=10"),
            ("norm.precise=10", "reg.swa.batches=100"),
        ),
        (("reg=[drop_path]",), ("reg.drop_path", "the model has none")),
        (("reg=[l1]", "reg.l1.where=nothing"), ("reg.l1.where=nothing", "hidden.weight")),
        (("reg=[swa]", "train.duration=5step"), ("reg.swa.every=1ep", "use reg.swa.every=1step")),
    ],
)
def test_what_cannot_work_is_refused_with_both_settings_and_a_remedy(
    words: tuple[str, ...], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(name in said for name in named), said
