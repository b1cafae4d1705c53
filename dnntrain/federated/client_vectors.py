"""A vector for each client that lasts from round to round, equal on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class ClientVectors:
    """Vectors float32 [n] by client; a client without one has zeros.

    The rank that trains a client sets its vector. `share` gives it to the other ranks, exactly.
    """

    def __init__(self) -> None:
        self._vectors: dict[int, Tensor] = {}
        self._pending: dict[int, Tensor] = {}

    def get(self, client: int) -> Tensor | None:
        return self._vectors.get(client)

    def set(self, client: int, vector: Tensor) -> None:
        """Set the vector of a client for the rounds to come."""
        self._pending[client] = vector

    def share(self, clients: Sequence[int], size: int, device: str, reduce: Callable[[Tensor], Tensor]) -> None:
        """Exchange the new vectors of `clients`; all ranks call it with the same ones."""
        for client in clients:
            vector = self._pending.get(client)
            self._vectors[client] = reduce(torch.zeros(size, device=device) if vector is None else vector.to(device))
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        return {str(client): self._vectors[client] for client in sorted(self._vectors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._pending.clear()
        self._vectors = {int(client): vector for client, vector in state.items()}
