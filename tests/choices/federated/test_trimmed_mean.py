"""`federated=trimmed_mean`: the mean without the extremes."""

from __future__ import annotations

import torch

from dnntrain.federated.averaging import trim_mean


def test_the_extremes_of_each_entry_are_left_out() -> None:
    table = torch.tensor([[1.0], [2.0], [3.0], [-1e9], [1e9]])
    assert trim_mean(table, 1, 0.2).tolist() == [2.0]
    assert trim_mean(table[:1], 1, 0.4).tolist() == [1.0]
