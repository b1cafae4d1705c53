"""Repeated augmentation in real runs: what is refused, and that an epoch keeps its steps. The batches: tests/input/test_repeats.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import trained
from stand_ins import context

from dnntrain.choices.augment.repeated_augment import RepeatedAugment
from dnntrain.errors import ConfigError
from dnntrain.protocols import Hooks


def test_it_asks_for_its_number_of_copies() -> None:
    assert RepeatedAugment(copies=4).build(context()) == Hooks(augment_copies=4)


def test_a_batch_that_the_copies_do_not_divide_is_refused_with_one_that_works(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"augment\.repeated_augment\.copies=3 does not divide train\.batch_size=32"
    ) as caught:
        trained(
            tmp_path / "run",
            "reg=[]",
            "augment=[crop,flip,repeated_augment]",
            "augment.repeated_augment.copies=3",
            "train.batch_size=32",
        )
    assert "train.batch_size=33" in str(caught.value)


def test_copies_that_nothing_makes_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"repeats examples, but no augmentation makes the copies differ"):
        trained(
            tmp_path / "run",
            "reg=[]",
            "augment=[crop,flip,repeated_augment]",
            "augment.crop.padding=0",
            "train.batch_size=32",
        )


@pytest.mark.slow
def test_a_run_with_copies_has_the_steps_of_one_without(tmp_path: Path) -> None:
    words = ("train.batch_size=32", "train.duration=2ep", "augment.crop.padding=1", "model=mlp")
    plain = trained(tmp_path / "plain", "reg=[]", *words)
    repeated = trained(tmp_path / "repeated", "reg=[]", "augment=[crop,flip,repeated_augment]", *words)
    assert repeated["steps"] == plain["steps"]
    assert repeated["digest"] != plain["digest"]
