"""The layer table and the blame find planted faults."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dnntrain.choices.task.classification import Classification
from dnntrain.explain.blame import blame_layers
from dnntrain.explain.layers import (
    compute_effective_rank,
    compute_snr,
    find_layer_faults,
    integer_layers,
    list_weight_layers,
    measure_layers,
    measure_reaches,
)
from dnntrain.explain.similarity import collect_grams, compare_grams, compute_cka, make_gram, pick_evenly
from dnntrain.explain.subject import Subject, read_inputs
from dnntrain.inference.evaluate_run import load_data_splits
from dnntrain.inference.load import load_run
from dnntrain.protocols import Batch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        outputs: Tensor = self.head(features.mean((2, 3)))
        return outputs


def make_batch(count: int = 64) -> Batch:
    import numpy as np

    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    index = np.arange(count)
    return Batch(images, torch.arange(count) % 3, index, index)


def test_effective_rank_counts_equal_singular_values() -> None:
    assert compute_effective_rank(torch.eye(6)) == pytest.approx(6.0)
    assert compute_effective_rank(torch.ones(5, 7)) == pytest.approx(1.0)
    assert compute_effective_rank(torch.zeros(3, 3)) == 0.0


def test_the_signal_to_noise_of_a_hundredth_is_40_db() -> None:
    signal = torch.randn(1000)
    assert compute_snr(signal, signal * 1.01) == pytest.approx(40.0, abs=0.01)
    assert compute_snr(signal, signal) == 200.0


def test_a_sound_network_has_no_faults() -> None:
    facts = measure_layers(Net(), Classification(), make_batch())
    assert [layer.name for layer in facts] == ["conv1", "conv2", "head"]
    assert find_layer_faults(facts) == {"conv1": [], "conv2": [], "head": []}
    assert all(30 < layer.weight_snr < 60 and 25 < layer.output_snr < 60 for layer in facts)
    assert [layer.units for layer in facts] == [8, 8, 3]


def test_an_operation_in_place_changes_no_figure() -> None:
    """A ReLU in place would make every output of its layer look positive."""

    class InPlace(Net):
        def forward(self, images: Tensor) -> Tensor:
            features = self.conv2(self.conv1(images).relu_()).relu_()
            outputs: Tensor = self.head(features.mean((2, 3)))
            return outputs

    assert measure_layers(InPlace(), Classification(), make_batch()) == measure_layers(
        Net(), Classification(), make_batch()
    )


def test_the_similarity_of_three_examples_is_unknown() -> None:
    grams = {"layer": make_gram(torch.randn(3, 5))}
    assert math.isnan(compute_cka(*grams.values(), *grams.values()))
    assert compare_grams(grams, grams).as_json()["cka"] == [[None]]


def test_a_layer_on_parts_of_examples_is_left_out() -> None:
    model = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 4), nn.Unflatten(0, (6, 2)), nn.Flatten(1), nn.Linear(8, 3))
    assert list(collect_grams(model, torch.randn(6, 2, 4))) == ["4", "output"]


def test_a_dead_layer_is_found() -> None:
    model = Net()
    with torch.no_grad():
        model.conv2.bias.fill_(-100.0)
    facts = {layer.name: layer for layer in measure_layers(model, Classification(), make_batch())}
    assert facts["conv2"].dead == 1.0
    faults = find_layer_faults(list(facts.values()))
    assert "dead" in faults["conv2"][0]
    assert faults["conv1"] == faults["head"] == []


def break_scale(model: Net, channel: int = 0, factor: float = 3000.0) -> None:
    """Multiply a channel between two layers and divide it again: the outputs stay, one range becomes too wide."""
    with torch.no_grad():
        model.conv1.weight[channel] *= factor
        assert model.conv1.bias is not None
        model.conv1.bias[channel] *= factor
        model.conv2.weight[:, channel] /= factor


def test_a_broken_scale_is_found_by_the_noise_of_its_layer() -> None:
    model, batch = Net(), make_batch()
    before = model(batch.inputs)
    break_scale(model)
    torch.testing.assert_close(model(batch.inputs), before, atol=1e-4, rtol=1e-3)
    facts = {layer.name: layer for layer in measure_layers(model, Classification(), batch)}
    faults = find_layer_faults(list(facts.values()))
    assert faults["conv2"]
    assert faults["conv1"] == []
    assert facts["conv2"].output_snr < 5 < 25 < facts["conv1"].output_snr


def test_layers_compute_in_integers_during_the_body_alone() -> None:
    model, batch = Net(), make_batch()
    before, weight = model(batch.inputs).detach(), model.conv1.weight.detach().clone()
    reaches = measure_reaches(model, [batch.inputs])
    with integer_layers(list_weight_layers(model), reaches):
        rounded = model(batch.inputs).detach()
    assert 0 < float((rounded - before).abs().max()) < 0.1
    assert torch.equal(model.conv1.weight, weight)
    assert torch.equal(model(batch.inputs), before)


def test_cka_is_1_up_to_rotation_and_scale_and_small_for_noise() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(100, 20, generator=generator)
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=generator))[0]
    gram = make_gram(features)
    assert compute_cka(gram, make_gram(3 * features @ rotation)) == pytest.approx(1.0, abs=1e-6)
    assert abs(compute_cka(gram, make_gram(torch.randn(100, 20, generator=generator)))) < 0.1


def test_the_layers_of_a_network_are_most_like_themselves() -> None:
    grams = collect_grams(Net(), make_batch().inputs)
    similarity = compare_grams(grams, grams)
    assert similarity.rows == ["conv1", "conv2", "head", "output"]
    assert all(similarity.values[number][number] == pytest.approx(1.0) for number in range(4))
    assert pick_evenly([str(number) for number in range(50)], 4) == ["0", "16", "33", "49"]
    assert math.isfinite(similarity.values[0][3])


@pytest.mark.slow
def test_blame_finds_the_layer_with_a_broken_scale(short_run: Path) -> None:
    subject = Subject(load_run(short_run))
    split = load_data_splits(subject.loaded)["test"]
    batch = read_inputs(subject, split, split.index[:200])
    calibration = [batch.inputs]
    together, alone = blame_layers(subject, batch, calibration)
    assert not together.is_guilty
    assert not any(item.is_guilty for item in alone)
    first, second = (subject.model.get_submodule(name) for name in ("conv1", "conv2"))
    with torch.no_grad():
        for tensor in first.parameters():
            tensor[0] *= 3000.0
        second.get_parameter("weight")[:, 0] /= 3000.0
    together, alone = blame_layers(subject, batch, calibration)
    assert alone[0].name == "conv2"
    assert [item.is_guilty for item in (together, *alone)] == [True, True, False, False, False]
