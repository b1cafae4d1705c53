"""`federated=krum`: the client with the nearest neighbors."""

from __future__ import annotations

import torch

from dnntrain.federated.averaging import select_krum


def test_a_client_far_from_the_others_is_never_selected() -> None:
    table = torch.tensor([[0.0], [0.1], [0.2], [0.3], [50.0]])
    assert float(select_krum(table, 1, 0.2, 1)) < 1
    assert float(select_krum(table, 1, 0.2, 3)) < 1
    assert select_krum(table[:1], 1, 0.2, 1).tolist() == [0.0]


def test_statistics_do_not_decide_which_client_is_near() -> None:
    """The client with false weights has the number of batches of the others."""
    table = torch.tensor([[0.0, 100.0], [0.1, 400.0], [0.2, 900.0], [0.3, 1600.0], [50.0, 150.0]])
    assert float(select_krum(table, 1, 0.2, 1)[0]) < 1
