"""Synchronised batch normalisation: two ranks compute what one process does over the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from two_ranks import computed, inputs, network, on_two_ranks

from dnntrain.choices.norm._convert import restore_batch_norms
from dnntrain.choices.norm.sync import Sync, SyncNorm, normalize_over_ranks
from dnntrain.protocols import NormFacts, SingleProcess


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[5, 3], pytest.param([8, 0], marks=pytest.mark.slow)])
def test_two_ranks_equal_one_process_over_the_whole_batch(sizes: list[int], tmp_path: Path) -> None:
    whole = computed(network(), inputs(), scale=1.0)
    ranks = on_two_ranks(tmp_path, "sync", sizes)
    for name, expected in whole.items():
        if name.startswith(("outputs", "inputs")):
            found = torch.cat([rank[name] for rank in ranks])
            torch.testing.assert_close(
                found, expected, rtol=1e-6, atol=3e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            for rank in ranks:
                torch.testing.assert_close(
                    rank[name], expected, rtol=1e-5, atol=3e-6, msg=lambda text, name=name: f"{name}: {text}"
                )


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5), (8, 3, 4, 4)])
def test_the_function_equals_torchs_batch_normalisation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images, weight, bias = torch.randn(shape), torch.randn(3), torch.randn(3)
    outputs, mean, var, count = normalize_over_ranks(images, weight, bias, 1e-5, SingleProcess())
    expected = nn.functional.batch_norm(images, None, None, weight, bias, True, 0.0, 1e-5)
    torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)
    flat = images.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(mean, flat.mean(1))
    torch.testing.assert_close(var, flat.var(1, correction=0), rtol=1e-6, atol=0)
    assert int(count) == flat.shape[1]


def test_variance_survives_a_large_mean() -> None:
    images = 1e4 + torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    _, _, var, _ = normalize_over_ranks(images, None, None, 1e-5, SingleProcess())
    torch.testing.assert_close(var, images.double().var(0, correction=0), rtol=1e-4, atol=0)


def test_on_one_rank_it_is_bitwise_plain_and_the_plan_says_so() -> None:
    plain, ours = computed(network(), inputs(), 1.0), computed(Sync().convert(network()), inputs(), 1.0)
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    (note,) = Sync().notes(NormFacts(ranks=1, batch_size=32, micro_batch_size=32, accumulation=1, batch_norms=2))
    assert "one rank" in note


def test_accumulation_is_noted() -> None:
    (note,) = Sync().notes(NormFacts(ranks=2, batch_size=64, micro_batch_size=16, accumulation=2, batch_norms=2))
    assert "micro-batch of 32" in note


def test_the_exported_model_is_the_one_that_was_built() -> None:
    model = Sync().convert(network())
    assert any(isinstance(module, SyncNorm) for module in model.modules())
    kinds = [type(module) for module in restore_batch_norms(model).modules()]
    assert kinds == [type(module) for module in network().modules()]
    assert list(model.state_dict()) == list(network().state_dict())
