"""A pipeline pads uneven micro-batches: the plan rejects it if batch normalization would see the padding."""

from __future__ import annotations

import pytest

from dnntrain import plan
from dnntrain.errors import ConfigError

LINE = ("device=cpu", "model=resnet_cifar", "model.depth=8", "model.width=8", "launch.nproc=4")
LAYOUT = ("parallel=pp", "parallel.pp=2", "parallel.replicate=2")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "sync"])
def test_uneven_shares_of_full_batches_are_rejected(norm: str) -> None:
    # Three blocks of 8 on two data ranks.
    with pytest.raises(ConfigError, match="pads uneven micro-batches") as caught:
        plan(*LINE, *LAYOUT, f"norm={norm}", "train.batch_size=24", "train.max_examples=240")
    assert "use norm=group, or a batch that divides" in str(caught.value)
    plan(*LINE, *LAYOUT, "norm=group", "train.batch_size=24", "train.max_examples=240")
    plan(*LINE, *LAYOUT, f"norm={norm}", "train.batch_size=32", "train.max_examples=320")


@pytest.mark.slow
def test_a_short_last_batch_is_rejected_unless_it_is_left_out() -> None:
    words = (*LINE, *LAYOUT, "norm=sync", "train.batch_size=32", "train.max_examples=330")
    with pytest.raises(ConfigError, match="pads uneven micro-batches") as caught:
        plan(*words)
    assert "or train.drop_last=true" in str(caught.value)
    assert plan(*words, "train.drop_last=true").steps_per_epoch == 10
