"""`federated=fedprox`: the term that keeps clients near the server."""

from __future__ import annotations

import torch

from dnntrain.federated.rules import Proximal


def test_the_gradient_of_the_term_is_added() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    rule = Proximal(0.5)
    rule.bind([weight])
    rule.begin(0)
    weight.data += torch.tensor([0.0, 4.0])
    weight.grad = torch.tensor([1.0, 1.0])
    rule.correct()
    assert weight.grad.tolist() == [1.0, 3.0]
