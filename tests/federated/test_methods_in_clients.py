"""Methods of every group act within clients, or between rounds, and a run with them is resumed bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnntrain import train
from tests.support.short_runs import broken_off, comparable

BASE = (
    *("model=mlp", "model.hidden=[16]", "train.max_examples=96", "train.duration=3step", "log.every=1step"),
    *("log.report=false", "checkpoint.keep_last=9", "federated=fedavg", "federated.clients=3"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("augment=[crop,mixup]", "average=[ema]", "reg=[sam,grad_clip]", "sched.warmup=1step"),
        ("quant=qat", "quant.backend=none"),
        ("distill=mean_teacher", "reg=[label_smoothing,dropout]"),
        ("prune=magnitude", "prune.cuts=1", "train.micro_batch_size=8"),
        ("task=regression", "data=diabetes", "augment=[]", "reg=[]", "precision=bf16"),
        ("model=resnet20", "model.width=4", "federated.partition=shards", "data.sampler=balanced"),
    ],
    ids=lambda words: words[0],
)
def test_a_federated_run_with_other_methods_is_resumed_bit_for_bit(words: tuple[str, ...], tmp_path: Path) -> None:
    line = {word.partition("=")[0]: word for word in (*BASE, *words)}
    if "model=resnet20" in words:
        del line["model.hidden"]
    whole = train(*line.values(), f"run_dir={tmp_path}/whole", display="quiet")
    broken_off(tmp_path / "whole", tmp_path / "again", 1)
    again = train(*line.values(), f"run_dir={tmp_path}/again", display="quiet")
    assert again["digest"] == whole["digest"]
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")
