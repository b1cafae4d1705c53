"""Repair after a cut without training: ridge compensation and statistics of batch norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dnntrain.protocols import Batch
from dnntrain.pruning.criteria import ScoreInputs, score_units
from dnntrain.pruning.cut import cut_model, make_cut
from dnntrain.pruning.repair import compensate_removed, recalibrate_batch_norm
from dnntrain.pruning.selection import Rules, find_removed, select_units
from dnntrain.pruning.trace import find_groups
from dnntrain.pruning.verify import measure_difference
from dnntrain.pruning.widths import Widths, apply_widths, decode_widths
from dnntrain.utils.rng import Key

CRITERIA = ("random", "magnitude", "taylor", "fpgm", "bn_scale", "lamp", "obd")


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    ).eval()


def make_batches() -> list[Batch]:
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    index = np.arange(32)
    return [Batch(part, torch.zeros(32, dtype=torch.long), index, index) for part in images.split(32)]


def test_compensation_brings_the_outputs_nearer_to_those_of_the_whole_network() -> None:
    model, batches = make_network(), make_batches()
    coupling = find_groups(model, torch.zeros(1, 3, 8, 8))
    cut = make_cut(model, {0: [1, 4, 6]}, coupling.groups, Widths())
    smaller = cut_model(model, cut)
    images = torch.cat([batch.inputs for batch in batches])
    with torch.no_grad():
        before = (smaller(images) - model(images)).square().mean()
        replaced = compensate_removed(model, smaller, cut, batches)
        after = (smaller(images) - model(images)).square().mean()
    assert set(replaced) == {"3.weight", "3.bias"}
    assert after < 0.8 * before


def test_recalibrated_statistics_are_those_of_the_batches() -> None:
    model, batches = make_network(), make_batches()
    replaced = recalibrate_batch_norm(model, batches)
    with torch.no_grad():
        features = torch.cat([model[0](batch.inputs) for batch in batches])
    torch.testing.assert_close(replaced["1.running_mean"], features.mean((0, 2, 3)))
    assert not model[1].training
    assert model[1].momentum == 0.1


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_cut_by_any_criterion_is_the_masked_network(criterion: str) -> None:
    model, batches = make_network(), make_batches()

    def gradients() -> list[dict[str, torch.Tensor]]:
        model.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(batches[0].inputs), batches[0].targets))
        return [{name: value.grad for name, value in model.named_parameters() if value.grad is not None}]

    groups = find_groups(model, torch.zeros(1, 3, 8, 8)).groups
    scores = score_units(criterion, groups, ScoreInputs(model, gradients, Key(0, "test")))
    assert [values is None for values in scores] == [False, criterion == "bn_scale"]
    removed = select_units(groups, scores, 0.5, Rules("local"), ["", ""])
    assert removed[0] == sorted(np.argsort(scores[0], kind="stable")[:4])
    assert measure_difference(model, make_cut(model, removed, groups, Widths()), batches[0].inputs) < 1e-5


def test_widths_are_multiples_and_a_share_of_each_group_stays() -> None:
    groups = find_groups(make_network(), torch.zeros(1, 3, 8, 8)).groups
    scores = [np.arange(8.0), np.arange(6.0) + 100]
    removed = select_units(groups, scores, 0.9, Rules("global", 0.5, 1), ["", ""])
    assert {number: len(units) for number, units in removed.items()} == {0: 4, 1: 3}
    removed = select_units(groups, scores, 0.4, Rules("local", 0.1, 4), ["", ""])
    assert 8 - len(removed.get(0, ())) == 8
    best, cost = find_removed(
        groups, scores, ["", ""], Rules("local"), 10, lambda removed: 14 - sum(map(len, removed.values()))
    )
    assert cost <= 10
    assert sum(map(len, best.values())) == 14 - cost


def test_widths_from_a_file_are_checked() -> None:
    from dnntrain.errors import CheckpointError

    widths = Widths({"0.weight": (4, 0, 0, 0)}, {}, (), 1)
    assert decode_widths(widths.as_json(), "file") == widths
    for damaged in (
        {**widths.as_json(), "shapes": {"0.weight": [-1]}},
        {**widths.as_json(), "attributes": {"0": {"forward": 1}}},
        {"shapes": {}},
    ):
        with pytest.raises(CheckpointError, match="damaged"):
            decode_widths(damaged, "file")
    with pytest.raises(CheckpointError, match="does not fit"):
        apply_widths(make_network(), Widths({"0.weight": (9, 0, 0, 0)}))
