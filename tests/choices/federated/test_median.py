"""`federated=median`: a false update moves no weight beyond those of the others."""

from __future__ import annotations

import torch

from dnntrain.federated.averaging import take_median


def test_an_extreme_client_does_not_move_the_median() -> None:
    table = torch.tensor([[1.0, -5.0], [2.0, 0.0], [1e9, 1.0]])
    assert take_median(table, 2).tolist() == [2.0, 0.0]
    assert take_median(table[:2], 2).tolist() == [1.5, -2.5]
