"""The checks of maps: each finds the map that it is there for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dnntrain.explain.insertion import compute_area, make_random_maps, measure_curves
from dnntrain.explain.method import Aim
from dnntrain.explain.occlusion import Occlusion
from dnntrain.explain.randomization import measure_randomization, shuffle_layer
from dnntrain.explain.stability import draw_noise, measure_stability
from dnntrain.explain.statistics import compute_entropy, compute_interval, compute_ranks, correlate_ranks
from dnntrain.protocols import InputSpec
from dnntrain.utils.rng import Key

KEY = Key(0, "test")


def test_equal_values_share_their_mean_rank() -> None:
    assert compute_ranks(torch.tensor([[3.0, 1.0, 1.0, 2.0]])).tolist() == [[3.0, 0.5, 0.5, 2.0]]


def test_rank_correlation_is_1_for_the_same_order_and_0_for_a_constant_map() -> None:
    maps = torch.randn(3, 4, 4)
    assert correlate_ranks(maps, maps.exp()).tolist() == pytest.approx([1.0] * 3)
    assert correlate_ranks(maps, -maps).tolist() == pytest.approx([-1.0] * 3)
    assert correlate_ranks(maps, torch.ones(3, 4, 4)).tolist() == [0.0] * 3


def test_entropy_is_the_number_of_bits_of_the_value() -> None:
    maps = torch.stack([torch.zeros(4, 4), torch.arange(16).view(4, 4).float(), torch.eye(4)])
    expected = [0.0, 4.0, -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))]
    assert compute_entropy(maps).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    interval = compute_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    reach = 2.5705818 * math.sqrt(3.5 / 6)
    assert interval.mean == 3.5
    assert (interval.low, interval.high) == pytest.approx((3.5 - reach, 3.5 + reach), abs=0.01)
    assert compute_interval([1.0, 2.0]).high == math.inf


def test_the_area_of_a_straight_line_is_a_half() -> None:
    assert compute_area(torch.linspace(0, 1, 13)[None]).tolist() == pytest.approx([0.5])


def count_marked(images: Tensor, rows: Tensor) -> Tensor:
    """The answer of a model that looks at the upper left quarter only."""
    return images[:, 0, :4, :4].mean((1, 2)).double()


def test_a_map_of_the_place_that_counts_beats_random_maps_and_its_opposite_does_not() -> None:
    images = torch.ones(2, 1, 8, 8)
    right = torch.zeros(2, 8, 8)
    right[:, :4, :4] = 1.0
    curves = measure_curves(count_marked, images, right, (4, 4), KEY)
    assert curves.insertion["map"][0, 3] == 1.0
    assert curves.deletion["map"][0, 3] == 0.0
    for kind, sign in (("insertion", 1), ("deletion", -1)):
        random = curves.compute_areas(kind, "random")
        assert (sign * (curves.compute_areas(kind, "map") - random) > 0.2).all()
    wrong = measure_curves(count_marked, images, -right, (4, 4), KEY)
    assert (wrong.compute_areas("insertion", "map") < wrong.compute_areas("insertion", "random")).all()


def test_a_random_map_depends_on_the_number_of_its_example_alone() -> None:
    whole = make_random_maps(5, (3, 3), 6, 6, KEY, 0)
    torch.testing.assert_close(make_random_maps(2, (3, 3), 6, 6, KEY, 3), whole[3:])
    noise = draw_noise(torch.Size((5, 1, 4, 4)), KEY)
    torch.testing.assert_close(draw_noise(torch.Size((2, 1, 4, 4)), KEY, 3), noise[3:])
    many = draw_noise(torch.Size((100, 1, 20, 20)), KEY)
    assert abs(float(many.mean())) < 0.01
    assert abs(float(many.std()) - 1) < 0.01


class EdgeMap:
    """A map of the image, whatever the model is."""

    name, needs_gradients, grid, calls = "edges", False, (6, 6), 0

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        return inputs[:, 0]


def make_model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3))


def test_randomization_finds_a_map_that_does_not_depend_on_the_weights() -> None:
    model, images = make_model(), torch.randn(4, 1, 6, 6)
    aim = Aim(torch.zeros(4, dtype=torch.long), torch.ones(4))
    before = [parameter.clone() for parameter in model.parameters()]
    edges = measure_randomization(EdgeMap(), model, images, images[:, 0], aim, KEY)
    assert (edges.correlations > 0.999).all()
    method = Occlusion(6, 6, 1, 1)
    maps = method.compute_maps(model, images, aim)
    real = measure_randomization(method, model, images, maps, aim, KEY)
    assert (real.correlations[-1] < 0.5).all()
    assert real.layers == ("3", "1")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_shuffling_keeps_the_numbers_of_a_layer() -> None:
    layer = nn.Linear(6, 5)
    before = layer.weight.detach().clone()
    shuffle_layer(layer, "layer", KEY)
    assert not torch.equal(layer.weight, before)
    torch.testing.assert_close(layer.weight.detach().flatten().sort().values, before.flatten().sort().values)


class UnstableMap(EdgeMap):
    """A map that depends on the last bits of the image."""

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        return (inputs[:, 0] * 1e4).sin()


def test_stability_finds_a_map_that_noise_changes() -> None:
    images = torch.randn(4, 1, 6, 6)
    spec = InputSpec((1, 6, 6), (0.5,), (1.0,))
    aim = Aim(torch.zeros(4, dtype=torch.long), torch.ones(4))
    model = make_model()
    assert (measure_stability(EdgeMap(), model, images, images[:, 0], aim, spec, KEY) > 0.95).all()
    unstable = UnstableMap()
    maps = unstable.compute_maps(model, images, aim)
    assert (measure_stability(unstable, model, images, maps, aim, spec, KEY).abs() < 0.5).all()
