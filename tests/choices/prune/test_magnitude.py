"""`prune=magnitude` and the masks that it shares with `prune=nm24`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dnntrain.choices.prune.magnitude import mask_all, mask_each
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.inference.load import load_model
from dnntrain.protocols import WidthMultiple
from dnntrain.utils.hardware import Hardware
from tests.support.short_runs import broken_off, comparable, trained

RUN = ("model=mlp", "model.hidden=[16]", "train.duration=8step", "train.max_examples=64", "checkpoint.every=2step")
MASKED = (*RUN, "checkpoint.keep_last=9", "prune=magnitude", "prune.cuts=2")


def count_zeros(run: Path) -> tuple[int, int]:
    weights = [value for name, value in load_model(run).model.named_parameters() if value.ndim > 1]
    return sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)


def test_the_smallest_weights_of_all_layers_or_of_each_go() -> None:
    weights = {"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([[3.0, 4.0]])}
    assert {name: mask.tolist() for name, mask in mask_all(weights, 0.5).items()} == {
        "a": [[False, False]],
        "b": [[True, True]],
    }
    assert {name: mask.tolist() for name, mask in mask_each(weights, 0.5).items()} == {
        "a": [[False, True]],
        "b": [[False, True]],
    }


@pytest.mark.slow
def test_weights_stay_zero_to_the_end_also_after_a_resume(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", *MASKED)
    zeros, weights = count_zeros(tmp_path / "whole")
    assert zeros == round(0.8 * weights)
    broken_off(tmp_path / "whole", tmp_path / "again", 4)
    again = trained(tmp_path / "again", *MASKED)
    assert again["digest"] == whole["digest"]
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")
    shutil.rmtree(tmp_path / "again")


def test_the_plan_says_that_nothing_gets_faster() -> None:
    (note,) = decode_config(compose(["prune=magnitude"])).prune.notes(Hardware("cpu"), WidthMultiple())
    assert "makes nothing faster" in note


def test_an_average_of_the_weights_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not support averages"):
        trained(tmp_path / "run", *MASKED, "average=[ema]")
