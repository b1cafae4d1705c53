"""Recomputed statistics are those of the population of training batches; they are in place for evaluation only, and survive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from short_runs import comparable, result, trained
from stand_ins import built
from torch import nn

from dnntrain.nn.precise_bn import PreciseStatistics
from dnntrain.protocols import Batch, StepInfo


def batches(sizes: list[int]) -> list[Batch]:
    torch.manual_seed(1)
    numbers = [np.arange(size) for size in sizes]
    return [
        Batch(torch.randn(len(index), 3, 4, 4) + at, torch.zeros(len(index), dtype=torch.int64), index, index)
        for at, index in enumerate(numbers)
    ]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))


def test_statistics_are_those_of_all_examples_together() -> None:
    model, data = network(), batches([4, 2, 5])
    view = PreciseStatistics(2)
    view.bind(built(model, batches=data))
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    with view.swap_in(model):
        seen = torch.cat([batch.inputs for batch in data[:2]]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(model[1].running_mean, seen.mean(1))  # type: ignore[index]
        torch.testing.assert_close(model[1].running_var, seen.var(1, correction=0))  # type: ignore[index]
        # The second layer sees each batch as the first has normalised it with that batch's own statistics.
        plain = nn.Sequential(nn.BatchNorm2d(3), model[2])  # type: ignore[index]
        inner = torch.cat([plain(batch.inputs) for batch in data[:2]]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(model[3].running_mean, inner.mean(1))  # type: ignore[index]
        torch.testing.assert_close(model[3].running_var, inner.var(1, correction=0))  # type: ignore[index]
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training


def test_they_are_recomputed_only_after_a_step_and_are_part_of_the_state() -> None:
    model, data = network(), batches([4])
    view = PreciseStatistics(1)
    view.bind(built(model, batches=data))
    with view.swap_in(model):
        first = model[1].running_mean.clone()  # type: ignore[index, union-attr]
    data[0].inputs += 1
    with view.swap_in(model):
        assert torch.equal(model[1].running_mean, first)  # type: ignore[index]
    other = PreciseStatistics(1)
    other.bind(built(model, batches=data))
    other.load_state_dict(view.state_dict())
    with other.swap_in(model):
        assert torch.equal(model[1].running_mean, first)  # type: ignore[index]
    other(StepInfo(0, 0.0, 0.0))
    with other.swap_in(model):
        torch.testing.assert_close(model[1].running_mean, first + 1)  # type: ignore[index]


NORM = (
    "model=resnet20",
    "norm=ghost",
    "norm.virtual_batch_size=8",
    "train.max_examples=64",
    "train.duration=3ep",
    "eval.max_examples=64",
)


@pytest.mark.slow
def test_a_run_exports_them_with_averaged_weights_and_trains_as_without(tmp_path: Path) -> None:
    words = (*NORM, "reg=[]", "average=[ema]", "eval.weights=last")
    trained(tmp_path / "with", *words, "norm.precise_bn_batches=2")
    trained(tmp_path / "without", *words)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    differ = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert differ
    assert all(name.endswith(("running_mean", "running_var")) for name in differ)
    losses = [
        [row["loss"] for row in comparable(tmp_path / name) if row["split"] == "train"] for name in ("with", "without")
    ]
    assert losses[0] == losses[1]
    assert result(tmp_path / "with")["digest"] == result(tmp_path / "without")["digest"]
