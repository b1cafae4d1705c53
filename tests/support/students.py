"""A small student of the short run, and the student that a method sees when it is built."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from short_runs import comparable, result, trained
from stand_ins import class_spec, context
from torch import nn

from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import BuildContext

#: A network with a tenth of the teacher's parameters.
SMALL = (
    "model.channels=[8,16]",
    "model.hidden=32",
    "train.duration=2ep",
    "train.max_examples=160",
    "eval.run_test=false",
)

DIGITS = tuple("0123456789")


def student() -> nn.Module:
    return build_with_zero_weights(lambda: SmallCnn(channels=(8, 16), hidden=32).build(ModelShape(10, 1, 8, 8)))


def of_digits(**changes: Any) -> BuildContext:
    """The context of a run of digits."""
    form = {
        key: changes.pop(key) for key in ("num_classes", "input_shape", "class_names", "mean", "std") if key in changes
    }
    values = {"train_examples": 64, "data_digest": "data", "build_model": student, **changes}
    return replace(context(), spec=class_spec(**{"class_names": DIGITS, **form}), **values)


def taught_by(teacher: Path, method: str) -> tuple[str, ...]:
    return (*SMALL, f"distill={method}", f"distill.teacher={teacher}")


def assert_goes_on_bitwise(folder: Path, *words: str) -> None:
    """A run that ended after 7 steps and is extended ends as the longer run."""
    from dnntrain.cli.main import main

    words = ("sched=constant", "train.batch_size=16", *words)
    trained(folder / "long", *words)
    trained(
        folder / "short", *[word for word in words if not word.startswith("train.duration")], "train.duration=7step"
    )
    assert main(["resume", str(folder / "short"), "train.duration=2ep", "--quiet"]) == 0
    assert result(folder / "short")["digest"] == result(folder / "long")["digest"]


#: What one process is compared with.
TWO_RANKS: dict[str, tuple[str, ...]] = {"two": ("parallel=ddp", "launch.nproc=2")}


def assert_trains_as_one_process(
    dnntrain: Callable[..., subprocess.CompletedProcess[str]],
    folder: Path,
    *words: str,
    layouts: Mapping[str, tuple[str, ...]] = TWO_RANKS,
    steps: int = 8,
) -> None:
    """Every loss under each of `layouts` is that of one process within 1e-5.

    Of 100 examples the last batch of an epoch has 4, which leaves the second rank with some or none.
    """
    kept = [word for word in words if not word.startswith("train.")]
    kept += [
        "train.max_examples=100",
        f"train.duration={steps}step",
        "log.every=1step",
        "log.report=false",
        "precision=fp32",
    ]
    for name, layout in {"one": (), **layouts}.items():
        done = dnntrain(*kept, f"run_dir={name}", *layout)
        assert done.returncode == 0, done.stderr
    for name in layouts:
        for ours, theirs in zip(comparable(folder / name), comparable(folder / "one"), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
