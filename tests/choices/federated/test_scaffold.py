"""`federated=scaffold`: the controls of clients and server."""

from __future__ import annotations

import torch

from dnntrain.federated.rules import Controls


def train(rule: Controls, weight: torch.nn.Parameter, client: int, gradient: float) -> float:
    """Return the gradient of a step after the rule has changed it."""
    rule.begin(client)
    weight.grad = torch.full((2,), gradient)
    rule.correct()
    rule.end(client, 1)
    return float(weight.grad[0])


def test_the_control_of_a_client_is_its_mean_gradient_and_that_of_the_server_the_mean_of_clients() -> None:
    weight, rule = torch.nn.Parameter(torch.zeros(2)), Controls(4)
    rule.bind([weight])
    assert [train(rule, weight, 0, 2.0), train(rule, weight, 1, 6.0)] == [2.0, 6.0]
    rule.finish_round([0, 1], lambda vector: vector)
    again = Controls(4)
    again.bind([weight])
    again.load_state_dict(rule.state_dict())
    # The server's is (2 + 6) / 4; a client that was never asked has none.
    assert train(again, weight, 0, 2.0) == 2.0 + 2.0 - 2.0
    assert train(again, weight, 3, 1.0) == 1.0 + 2.0
