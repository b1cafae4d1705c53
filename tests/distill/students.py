"""A small student of the short run, and the student that a method sees when it is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from short_runs import result, trained
from stand_ins import context
from torch import nn

from dnntrain.model.cost import unfilled
from dnntrain.model.seed_cnn import SeedCnn
from dnntrain.model.shape import ModelShape
from dnntrain.protocols import Context

#: A network with a tenth of the teacher's parameters.
SMALL = ("model.channels=[8,16]", "model.hidden=32", "train.duration=2ep", "train.limit=160", "eval.test=false")

DIGITS = tuple("0123456789")


def student() -> nn.Module:
    return unfilled(lambda: SeedCnn(channels=(8, 16), hidden=32).build(ModelShape(10, 1, 8, 8)))


def of_digits(**changes: Any) -> Context:
    """The context of a run of digits."""
    values = {"class_names": DIGITS, "train_examples": 64, "data_digest": "data", "student": student, **changes}
    return replace(context(), **values)


def taught_by(teacher: Path, method: str) -> tuple[str, ...]:
    return (*SMALL, f"distill={method}", f"distill.teacher={teacher}")


def assert_goes_on_bitwise(folder: Path, *words: str) -> None:
    """A run that ended after 7 steps and is extended ends as the longer run."""
    from dnntrain.cli import main

    words = ("sched=constant", "train.batch_size=16", *words)
    trained(folder / "long", *words)
    trained(
        folder / "short", *[word for word in words if not word.startswith("train.duration")], "train.duration=7step"
    )
    assert main(["resume", str(folder / "short"), "train.duration=2ep", "--quiet"]) == 0
    assert result(folder / "short")["digest"] == result(folder / "long")["digest"]
