"""One short real run of each method, and the combinations that are refused before anything starts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from short_runs import rows, trained

from dnntrain.cli.main import main

#: Few steps, with micro-batches and an uneven last step.
STEPS = (
    "train.duration=12step",
    "train.max_examples=100",
    "train.batch_size=32",
    "train.micro_batch_size=16",
    "eval.run_test=false",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (
            "reg=[]",
            "augment=[crop,flip,mixup]",
        ),
        (
            "reg=[label_smoothing]",
            "augment=[crop,flip,cutmix]",
        ),
        (
            "reg=[]",
            "augment=[crop,flip,mixup,cutmix,random_erasing]",
            "average=[ema]",
        ),
        ("reg=[dropout]",),
        ("reg=[dropout]", "model=resnet20", "reg.dropout.before_modules=head", "train.duration=2step"),
        ("reg=[drop_path,dropblock]", "model=resnet20", "train.duration=2step"),
        ("reg=[drop_path]", "model=vit_tiny", "model.depth=2", "train.duration=2step"),
        ("reg=[l1]", "optim.decoupled_weight_decay=true", "optim.weight_decay=0.05"),
        ("optim=muon", "optim.decoupled_weight_decay=true", "optim.weight_decay=0.05"),
        ("reg=[grad_clip]", "reg.grad_clip.mode=adaptive"),
        (
            "reg=[sam,grad_clip,dropout]",
            "augment=[crop,flip,mixup]",
            "average=[ema]",
        ),
        ("reg=[]", "average=[swa]", "model=resnet20", "train.duration=8step", "average.swa.precise_bn_batches=2"),
    ],
    ids=" ".join,
)
def test_a_method_trains_with_finite_loss(words: tuple[str, ...], tmp_path: Path) -> None:
    given = {word.split("=")[0] for word in words}
    trained(tmp_path / "run", *[word for word in STEPS if word.split("=")[0] not in given], *words)
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ("reg=[]", "augment=[crop,flip,mixup]", "data.mix_block_size=1"),
            ("data.mix_block_size=1", "use data.mix_block_size=8"),
        ),
        (
            ("reg=[]", "augment=[crop,flip,cutmix]", "train.micro_batch_size=4"),
            ("train.micro_batch_size=4", "data.mix_block_size=4"),
        ),
        (
            ("reg=[]", "augment=[crop,flip,mixup]", "parallel=ddp", "launch.nproc=2", "train.batch_size=12"),
            ("2 ranks", "train.batch_size=12", "data.mix_block_size=6"),
        ),
        (("reg=[dropout]", "model.dropout=0.2"), ("model.dropout=0.2", "reg.dropout.probability=0.1")),
        (("train.clip_norm=1",), ("train.clip_norm", "+reg=[grad_clip] reg.grad_clip.max=1")),
        (("max_grad_norm=1",), ("max_grad_norm", "+reg=[grad_clip] reg.grad_clip.max=1")),
        (
            ("optim.decoupled_weight_decay=true", "optim.weight_decay=0"),
            ("decoupled_weight_decay has no effect with weight_decay=0", "set weight_decay=0.05"),
        ),
        (
            (
                "reg=[]",
                "average=[ema,swa]",
            ),
            ("average.ema", "average.swa"),
        ),
        (
            ("reg=[]", "average=[swa]", "model=resnet20", "norm=per_rank", "norm.precise_bn_batches=10"),
            ("norm.precise_bn_batches=10", "average.swa.precise_bn_batches=100"),
        ),
        (("reg=[drop_path]",), ("reg.drop_path", "the model has none")),
        (("reg=[l1]", "reg.l1.parameters=nothing"), ("reg.l1.parameters=nothing", "hidden.weight")),
        (
            ("reg=[]", "average=[swa]", "average.swa.every=2ep", "train.duration=5step"),
            ("average.swa.every=2ep", "average.swa.every=1step"),
        ),
    ],
)
def test_what_cannot_work_is_refused_with_both_settings_and_a_remedy(
    words: tuple[str, ...], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(name in said for name in named), said
