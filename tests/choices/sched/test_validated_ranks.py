"""Schedules that look at the validation part decide on several ranks what one process decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_pool import Pool
from short_runs import comparable, trained

#: 100 training examples: the last step of an epoch has 4, and 37 to validate on, which two ranks cannot share evenly.
LINE = (
    "model=mlp",
    "model.hidden=[16]",
    "train.max_examples=100",
    "train.batch_size=32",
    "train.duration=24step",
    "log.every=1step",
    "log.report=false",
    "eval.every=2step",
    "eval.max_examples=37",
    "precision=fp32",
    "optim=sgd",
    "optim.lr=0.5",
    "augment.crop.padding=0",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("sched=plateau", "sched.patience=0", "sched.min_delta=0.2", "sched.lr_factor=0.5", "sched.base=linear"),
        ("sched=plateau", "sched.patience=1", "sched.metric=accuracy", "sched.min_delta=0.3", "sched.cooldown_evals=1"),
        ("sched=adaptive", "sched.base=cosine", "sched.warmup=2step"),
        ("sched=adaptive", "sched.follow=last", "sched.power=0.5"),
    ],
)
def test_two_ranks_take_the_decisions_of_one_process_at_the_same_steps(
    words: tuple[str, ...], tmp_path: Path, pool: Pool
) -> None:
    trained(tmp_path / "one", *LINE, *words)
    outcome = pool.train(2, [*LINE, *words, "parallel=ddp"], tmp_path / "two")
    assert not outcome.error, outcome.error
    one, two = comparable(tmp_path / "one"), comparable(tmp_path / "two")
    assert sum(row["split"] == "event" for row in one) >= 3
    assert [(row["step"], row["split"], row.get("event")) for row in two] == [
        (row["step"], row["split"], row.get("event")) for row in one
    ]
    for ours, theirs in zip(two, one, strict=True):
        for name in {"loss", "lr", "lr_scale"} & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
