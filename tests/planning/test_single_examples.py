"""Batch normalization of one number per channel cannot train on one example alone: the plan says so, and what works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from short_runs import result, trained

from dnntrain import plan
from dnntrain.errors import ConfigError

#: One number per channel and example in the second normalization.
NETWORK = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        super().__init__(
            nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, num_classes),
        )
"""
DDP = ("parallel=ddp", "launch.nproc=2")


@pytest.fixture
def line(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "net.py").write_text(NETWORK)
    return ("model=custom", "model.name=Net", f"model.file={tmp_path}/net.py", "train.batch_size=16")


def merge(*lines: tuple[str, ...]) -> list[str]:
    """Returns the words of all lines; of several for one key the last."""
    return list({word.split("=")[0]: word for line in lines for word in line}.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("train.max_examples=49",), "train.drop_last=true, or train.batch_size=15, or norm=group"),
        (("train.max_examples=49", "norm=sync"), "train.drop_last=true"),
        (("train.max_examples=49", "norm=ghost", "norm.virtual_batch_size=4"), "train.drop_last=true"),
        (("train.max_examples=50", *DDP), "train.drop_last=true"),
        (("train.max_examples=51", *DDP), "train.drop_last=true"),
        (("train.max_examples=48", "train.micro_batch_size=5"), "train.batch_size=15"),
        (("train.max_examples=48", "train.batch_size=2", *DDP), "train.batch_size=4"),
        (("train.max_examples=49", "train.duration=3ep"), "train.drop_last=true"),
        (
            ("train.max_examples=49", "train.duration=2step", "norm=sync", "norm.precise_bn_batches=4"),
            "train.drop_last=true",
        ),
    ],
)
def test_a_pass_of_one_example_is_rejected_with_a_line_that_works(
    words: tuple[str, ...], fix: str, line: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="cannot train on one example alone") as caught:
        plan(*merge(line, words))
    _, _, hint = str(caught.value).partition(" use ")
    assert fix in hint
    # Another norm does not have the options of this one.
    has_norm_options = any(word.startswith("norm.") for word in words)
    for setting in re.findall(r"train\.\w+=\w+" if has_norm_options else r"[a-z_.]+=\w+", hint):
        plan(*merge(line, words, (setting,)))


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        ("train.max_examples=50",),
        ("train.max_examples=50", "norm=sync", *DDP),
        ("train.max_examples=49", "norm=group"),
        ("train.max_examples=49", "norm=frozen"),
        ("train.max_examples=49", "train.duration=3step"),
        ("train.max_examples=49", "model=resnet20"),
        ("train.max_examples=49", "train.drop_last=true"),
    ],
)
def test_other_runs_are_planned(words: tuple[str, ...], line: tuple[str, ...]) -> None:
    custom = () if "model=resnet20" in words else line[:3]
    plan(*custom, line[3], *words)


@pytest.mark.slow
def test_dropping_the_last_batch_trains_whole_batches_only(tmp_path: Path, line: tuple[str, ...]) -> None:
    trained(tmp_path / "run", *line, "train.max_examples=49", "train.drop_last=true", "train.duration=2ep")
    assert result(tmp_path / "run")["steps"] == 6


@pytest.mark.slow
def test_dropping_nothing_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    words = ("train.max_examples=64", "train.batch_size=32", "train.duration=1ep")
    runs = [trained(tmp_path / name, *words, f"train.drop_last={name}") for name in ("true", "false")]
    assert runs[0]["value"] == runs[1]["value"]
