"""The average of the weights: its formula, its swap, its state."""

from __future__ import annotations

import torch
from stand_ins import built
from torch import nn

from dnntrain.choices.average.ema import WeightAverage, compute_decay
from dnntrain.protocols import StepInfo


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def change(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model(torch.randn(8, 4))  # moves the running statistics


def test_an_evaluation_changes_nothing_of_weights_that_are_tied() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    average = WeightAverage(0.5, 1, warmup=False)
    average.bind(built(model))
    with torch.no_grad():
        model[0].weight.add_(1)
    average(StepInfo(0, 0.0, 0.0))
    trained, averaged = model[0].weight.clone(), average.state_dict()["average"]["0.weight"].clone()
    assert not torch.equal(trained, averaged)
    for _ in range(2):
        with average.swap_in(model):
            assert torch.equal(model[0].weight, averaged)
        assert torch.equal(model[0].weight, trained)
        assert all(torch.equal(tensor, averaged) for tensor in average.state_dict()["average"].values())


def test_average_follows_its_formula_for_parameters_and_buffers() -> None:
    model = network()
    average = WeightAverage(0.9, 1, warmup=False)
    average.bind(built(model))
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(5):
        change(model, step)
        average(StepInfo(step, 0.0, 0.0))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * tensor
            else:
                expected[name] = tensor.clone()
    for name, tensor in average.state_dict()["average"].items():
        torch.testing.assert_close(tensor, expected[name])


def test_decay_warms_up_and_is_adapted_to_the_distance_of_updates() -> None:
    assert compute_decay(0, 0.999, 1, warmup=True) == 1 / 10
    assert compute_decay(10**6, 0.999, 1, warmup=True) == 0.999
    assert compute_decay(0, 0.9, 3, warmup=False) == 0.9**3


def test_applied_swaps_the_average_in_and_back_out() -> None:
    model = network()
    average = WeightAverage(0.5, 1, warmup=False)
    average.bind(built(model))
    change(model, 1)
    average(StepInfo(0, 0.0, 0.0))
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    averaged = {name: tensor.clone() for name, tensor in average.state_dict()["average"].items()}
    with average.swap_in(model):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, averaged[name])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, live[name])


def test_state_survives() -> None:
    model = network()
    average = WeightAverage(0.9, 1, warmup=True)
    average.bind(built(model))
    change(model, 1)
    average(StepInfo(0, 0.0, 0.0))
    other = WeightAverage(0.9, 1, warmup=True)
    other.bind(built(model))
    other.load_state_dict(average.state_dict())
    change(model, 2)
    average(StepInfo(1, 0.0, 0.0))
    other(StepInfo(1, 0.0, 0.0))
    for name, tensor in average.state_dict()["average"].items():
        assert torch.equal(tensor, other.state_dict()["average"][name])
