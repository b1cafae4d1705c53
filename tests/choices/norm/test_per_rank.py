"""Local batch normalisation is torch's, also where the model was built with synchronised layers."""

from __future__ import annotations

import torch
from torch import nn

from dnntrain.choices.norm.per_rank import PerRank
from dnntrain.protocols import NormFacts


def test_synchronised_layers_train_locally() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 2, 2)
    ours, plain = PerRank().convert(nn.Sequential(nn.SyncBatchNorm(3))), nn.Sequential(nn.BatchNorm2d(3))
    assert torch.equal(ours(images), plain(images))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), plain.buffers(), strict=True))


def test_the_plan_states_that_ranks_differ() -> None:
    (note,) = PerRank().notes(NormFacts(ranks=2, batch_size=32, micro_batch_size=16, accumulation=1, batch_norms=3))
    assert "norm=sync" in note
    assert not PerRank().notes(NormFacts(ranks=1, batch_size=32, micro_batch_size=32, accumulation=1, batch_norms=3))
