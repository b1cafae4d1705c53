"""Changes of the gradients of clients: the proximal term of FedProx, the control variates of SCAFFOLD."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.federated.client_vectors import ClientVectors
from dnntrain.federated.payload import find_sum_device


class Proximal:
    """gradient += mu * (weights - weights of the server): clients stay near it (Li et al., 2020)."""

    def __init__(self, mu: float) -> None:
        self._mu = mu
        self._parameters: Sequence[nn.Parameter] = ()
        self._start: list[Tensor] = []

    def bind(self, parameters: Sequence[nn.Parameter]) -> None:
        """Receive the parameters that are trained."""
        self._parameters = parameters

    def begin(self, client: int) -> None:
        """Keep the weights of the server."""
        self._start = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def correct(self) -> None:
        """Add the gradient of the term."""
        for parameter, start in zip(self._parameters, self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._mu)

    def end(self, client: int, steps: int) -> None:
        """Keep nothing."""

    def finish_round(self, clients: Sequence[int], reduce: Callable[[Tensor], Tensor]) -> None:
        """Keep nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load nothing."""


class Controls:
    """gradient += control of the server - control of the client (Karimireddy et al., 2020).

    The new control of a client is the mean of its gradients in the round before they are changed. For
    plain SGD that is option II of the paper; it does not depend on the optimizer. The control of the
    server is the mean of those of all `clients`, which begin at zero.
    """

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._of_clients = ClientVectors()
        self._server: Tensor | None = None
        self._parameters: Sequence[nn.Parameter] = ()
        self._offsets: list[Tensor] = []
        self._sums: list[Tensor] = []

    def bind(self, parameters: Sequence[nn.Parameter]) -> None:
        """Receive the parameters that are trained."""
        self._parameters = parameters

    def begin(self, client: int) -> None:
        """Set the offset of the gradients of `client`, and begin the sum of its gradients."""
        self._sums = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._offsets = []
        if self._server is not None:
            control, device = self._of_clients.get(client), self._parameters[0].device
            server = self._server.float().to(device)
            offset = server if control is None else server - control.to(device)
            parts = torch.split(offset, [parameter.numel() for parameter in self._parameters])
            pairs = zip(parts, self._parameters, strict=True)
            self._offsets = [part.view(parameter.shape) for part, parameter in pairs]

    @torch.no_grad()
    def correct(self) -> None:
        """Sum the gradients, then add the offset."""
        for place, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                self._sums[place].add_(parameter.grad)
                if self._offsets:
                    parameter.grad.add_(self._offsets[place])

    def end(self, client: int, steps: int) -> None:
        """Set the new control of `client`."""
        self._of_clients.set(client, torch.cat([total.reshape(-1) for total in self._sums]) / steps)

    def finish_round(self, clients: Sequence[int], reduce: Callable[[Tensor], Tensor]) -> None:
        """Exchange the new controls, and move that of the server."""
        size = sum(parameter.numel() for parameter in self._parameters)
        device = find_sum_device(str(self._parameters[0].device))
        before = {client: self._of_clients.get(client) for client in clients}
        self._of_clients.share(clients, size, device, reduce)
        server = torch.zeros(size, dtype=torch.float64, device=device)
        if self._server is not None:
            server += self._server.to(device)
        for client in clients:
            new, old = self._of_clients.get(client), before[client]
            assert new is not None
            change = new.double() if old is None else new.double() - old.to(device).double()
            server += change / self._clients
        self._server = server

    def state_dict(self) -> dict[str, Any]:
        server = {} if self._server is None else {"server": self._server}
        return {**server, "clients": self._of_clients.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._server = state.get("server")
        self._of_clients.load_state_dict(state["clients"])
