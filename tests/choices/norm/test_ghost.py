"""Ghost batch normalisation: each virtual batch by itself, on ranks as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from two_ranks import computed, inputs, network, on_two_ranks

from dnntrain.choices.norm.ghost import Ghost, normalize_virtual_batches, split_virtual_batches
from dnntrain.errors import ConfigError
from dnntrain.protocols import NormFacts


def test_the_rest_is_a_virtual_batch_where_it_is_half_of_one() -> None:
    assert split_virtual_batches(32, 8) == [8, 8, 8, 8]
    assert split_virtual_batches(20, 8) == [8, 8, 4]
    assert split_virtual_batches(19, 8) == [8, 11]
    assert split_virtual_batches(3, 8) == [3]
    assert split_virtual_batches(0, 8) == []


def test_each_virtual_batch_is_normalised_by_itself() -> None:
    torch.manual_seed(0)
    images, weight, bias = torch.randn(6, 3, 2, 2), torch.randn(3), torch.randn(3)
    statistics = torch.zeros(2, 2, 3)
    outputs = normalize_virtual_batches(images, [4, 2], weight, bias, 1e-5, statistics)
    for at, part in enumerate((slice(0, 4), slice(4, 6))):
        flat = images[part].transpose(0, 1).flatten(1)
        mean, var = flat.mean(1), flat.var(1)
        biased = flat.var(1, correction=0)
        shape = (1, 3, 1, 1)
        expected = (images[part] - mean.view(shape)) / (biased.view(shape) + 1e-5).sqrt() * weight.view(shape)
        torch.testing.assert_close(outputs[part], expected + bias.view(shape))
        torch.testing.assert_close(statistics[:, at], torch.stack([mean, var]))


def test_running_statistics_move_as_one_update_for_each_virtual_batch() -> None:
    # Two virtual batches of the same mean 3 and variance: two updates by 0.1 leave 0.81 of the start, which is 0.
    layer = Ghost(virtual_batch_size=2).convert(nn.Sequential(nn.BatchNorm1d(1)))[0]  # type: ignore[index]
    layer(torch.tensor([[2.0], [4.0], [2.0], [4.0]]))
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.19 * 3]))
    torch.testing.assert_close(layer.running_var, torch.tensor([0.81 + 0.19 * 2]))
    assert int(layer.num_batches_tracked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[4, 4], pytest.param([8, 0], marks=pytest.mark.slow)])
def test_two_ranks_equal_one_process(sizes: list[int], tmp_path: Path) -> None:
    whole = computed(Ghost(virtual_batch_size=2).convert(network()), inputs(), scale=1.0)
    ranks = on_two_ranks(tmp_path, "ghost", sizes)
    for name, expected in whole.items():
        if name.startswith(("outputs", "inputs")):
            torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), expected, rtol=1e-5, atol=1e-5)
        else:
            for rank in ranks:
                torch.testing.assert_close(rank[name], expected, rtol=1e-5, atol=1e-5)


def test_a_virtual_batch_that_is_the_whole_micro_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"norm\.virtual_batch_size=8"):
        Ghost(virtual_batch_size=16).notes(
            NormFacts(ranks=1, batch_size=16, micro_batch_size=16, accumulation=1, batch_norms=1)
        )


def test_what_other_layouts_would_cut_otherwise_is_noted() -> None:
    assert not Ghost(virtual_batch_size=8).notes(NormFacts(2, 32, 16, 1, 1))
    (note,) = Ghost(virtual_batch_size=8).notes(NormFacts(2, 40, 20, 1, 1))
    assert "do not divide" in note
