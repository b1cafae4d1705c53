"""Muon is torch's, also over convolution weights; its cheap iteration orthogonalises as torch's does."""

from __future__ import annotations

import inspect

import pytest
import torch
from optimizing import network, optimize
from torch import nn

from dnntrain.choices.optim.muon import MatrixMuon, Muon, compute_shape_factor, orthogonalize


def names(optimizer: torch.optim.Optimizer) -> set[str]:
    return {name for group in optimizer.param_groups for name in group["param_names"]}


def test_muon_takes_hidden_matrices_and_leaves_the_head_to_adamw() -> None:
    muon, adamw = Muon().build(network())
    assert names(muon) == {"0.weight", "4.weight"}
    assert names(adamw) == {"0.bias", "1.weight", "1.bias", "4.bias", "6.weight", "6.bias"}


def test_matrices_of_several_groups_are_stepped_at_their_own_rates() -> None:
    one, apart = network(), network()
    plain = Muon(lr=0.1, weight_decay=0.1).build(one)
    grouped = Muon(lr=0.1, weight_decay=0.1, param_groups=("4.weight lr_scale=0.5",)).build(apart)
    assert [group["lr"] for group in grouped[0].param_groups] == [0.1, 0.05]
    before = apart[4].weight.detach().clone()
    for model, optimizers in ((one, plain), (apart, grouped)):
        optimize(model, optimizers, 1)
    assert torch.equal(one[0].weight, apart[0].weight)
    torch.testing.assert_close(2 * (apart[4].weight - before), one[4].weight - before)


@pytest.mark.parametrize("channels_last", [False, True])
def test_muon_on_a_convolution_equals_torchs_muon_on_the_flattened_weight(channels_last: bool) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 3, 3, 3))
    flat = nn.Parameter(weight.detach().flatten(1).clone())
    if channels_last:
        weight = nn.Parameter(weight.detach().to(memory_format=torch.channels_last))
    ours, reference = (
        MatrixMuon([{"params": [("w", weight)]}], lr=0.1, adjust_lr_fn="original"),
        torch.optim.Muon([flat], lr=0.1),
    )
    for number in range(5):
        torch.manual_seed(number)
        gradient = torch.randn(6, 3, 3, 3)
        weight.grad = gradient.to(memory_format=torch.channels_last) if channels_last else gradient
        flat.grad = gradient.flatten(1)
        ours.step()
        reference.step()
    torch.testing.assert_close(weight.detach().flatten(1), flat.detach(), rtol=2e-2, atol=2e-2)  # bf16 inside


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(128, 9216), (64, 288), (50, 20), (4, 4)])
def test_the_cheap_iteration_orthogonalises_as_torchs_does(shape: tuple[int, int]) -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -2, shape[1]))
    coefficients = (3.4445, -4.7750, 2.0315)
    ours, theirs = orthogonalize(matrix, coefficients, 5), _zeropower_via_newtonschulz(matrix, coefficients, 5, 1e-7)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.float().flatten(), dim=0) > 0.999
    singular = torch.linalg.svdvals(ours)
    assert singular.max() < 1.3


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw", "spectral_unclamped"])
@pytest.mark.parametrize("shape", [(10, 40), (40, 10)])
def test_shape_factors_are_torchs(rule: str, shape: tuple[int, int]) -> None:
    from torch.optim import _muon

    if rule not in inspect.getsource(_muon):
        pytest.skip(f"torch {torch.__version__} does not know {rule}")
    _adjust_lr = _muon._adjust_lr
    assert compute_shape_factor(rule, *shape) == pytest.approx(_adjust_lr(1.0, rule, torch.Size(shape)))
