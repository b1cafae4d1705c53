"""`federated=fedyogi`: a second moment that moves by the size of the squared update at most."""

from __future__ import annotations

import torch

from dnntrain.federated.server import AdaptiveServer


def test_the_second_moment_falls_by_a_bounded_step() -> None:
    server = AdaptiveServer("yogi", 0.1, 0.0, 0.5, 1e-3)
    start = torch.zeros(1, dtype=torch.float64)
    server.step(start, torch.full((1,), 10.0, dtype=torch.float64))
    before = float(server.state_dict()["second"])
    server.step(start, torch.ones(1, dtype=torch.float64))
    assert float(server.state_dict()["second"]) == before - 0.5
