"""`federated=fedadam`: Adam on the mean update."""

from __future__ import annotations

import torch

from dnntrain.federated.server import AdaptiveServer


def test_moments_follow_the_mean_update_and_are_saved() -> None:
    server = AdaptiveServer("adam", 0.1, 0.9, 0.99, 1e-3)
    start, mean = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    first, second = 0.1, 0.99 * 1e-6 + 0.01
    assert torch.allclose(server.step(start, mean), torch.tensor([0.1 * first / (second**0.5 + 1e-3)]).double())
    again = AdaptiveServer("adam", 0.1, 0.9, 0.99, 1e-3)
    again.load_state_dict(server.state_dict())
    assert torch.equal(again.step(start, mean), server.step(start, mean))
