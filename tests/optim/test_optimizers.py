"""The optimizers are torch's own, with decay where it belongs; Muon also takes convolution weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnntrain.optim.adamw import AdamW
from dnntrain.optim.muon import MatrixMuon, Muon, orthogonalised, shape_factor, split_hidden
from dnntrain.optim.sgd import Sgd


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 5)
    )


def step(model: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...]) -> None:
    torch.manual_seed(1)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("choice", [Sgd(), AdamW(), Muon(weight_decay=0.1)])
def test_only_weights_decay_and_every_parameter_is_in_one_group(choice: Sgd | AdamW | Muon) -> None:
    model = network()
    names: dict[str, float] = {}
    for optimizer in choice.build(model):
        for group in optimizer.param_groups:
            for name in group["param_names"]:
                assert name not in names
                names[name] = group["weight_decay"]
    assert set(names) == {name for name, _ in model.named_parameters()}
    assert {name for name, decay in names.items() if decay} == {"0.weight", "4.weight", "6.weight"}


def test_sgd_equals_torchs_plain_implementation() -> None:
    ours, plain = network(), network()
    optimizers = Sgd(lr=0.05, weight_decay=0.0).build(ours)
    reference = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(3):
        step(ours, optimizers)
        step(plain, (reference,))
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_muon_takes_hidden_matrices_and_leaves_the_head_to_adamw() -> None:
    matrices, rest = split_hidden(network())
    assert [name for name, _ in matrices] == ["0.weight", "4.weight"]
    assert {name for name, _ in rest} == {"0.bias", "1.weight", "1.bias", "4.bias", "6.weight", "6.bias"}


@pytest.mark.parametrize("channels_last", [False, True])
def test_muon_on_a_convolution_equals_torchs_muon_on_the_flattened_weight(channels_last: bool) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 3, 3, 3))
    flat = nn.Parameter(weight.detach().flatten(1).clone())
    if channels_last:
        weight = nn.Parameter(weight.detach().to(memory_format=torch.channels_last))
    ours, reference = MatrixMuon([("w", weight)], lr=0.1, adjust_lr_fn="original"), torch.optim.Muon([flat], lr=0.1)
    for number in range(3):
        torch.manual_seed(number)
        gradient = torch.randn(6, 3, 3, 3)
        weight.grad = gradient.to(memory_format=torch.channels_last) if channels_last else gradient
        flat.grad = gradient.flatten(1)
        ours.step()
        reference.step()
    torch.testing.assert_close(weight.detach().flatten(1), flat.detach(), rtol=2e-2, atol=2e-2)  # bf16 inside


@pytest.mark.parametrize("shape", [(128, 9216), (64, 288), (50, 20), (4, 4)])
def test_the_cheap_iteration_orthogonalises_as_torchs_does(shape: tuple[int, int]) -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -2, shape[1]))
    coefficients = (3.4445, -4.7750, 2.0315)
    ours, theirs = orthogonalised(matrix, coefficients, 5), _zeropower_via_newtonschulz(matrix, coefficients, 5, 1e-7)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.float().flatten(), dim=0) > 0.999
    singular = torch.linalg.svdvals(ours)
    assert singular.max() < 1.3


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw", "spectral_unclamped"])
@pytest.mark.parametrize("shape", [(10, 40), (40, 10)])
def test_shape_factors_are_torchs(rule: str, shape: tuple[int, int]) -> None:
    from torch.optim._muon import _adjust_lr

    assert shape_factor(rule, *shape) == pytest.approx(_adjust_lr(1.0, rule, torch.Size(shape)))
