"""Change the weights of a client on their way to the server: false ones, clipped, noisy, compressed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnntrain.federated.client_vectors import ClientVectors
from dnntrain.federated.payload import Payload
from dnntrain.protocols.federation import Compression, Federation
from dnntrain.utils.rng import derive_seed

#: A poisoned client sends the opposite of its update, as many times as large.
POISON_FACTOR = -10.0


class Transmission:
    """The way of updates from clients to the server.

    Compression keeps the error of each client, and adds it to the next update of the client (error
    feedback; Seide et al., 2014; Karimireddy et al., 2019).

    Privacy bounds the update as the server gets it: with the error added, it is clipped again. Noise
    and clipping are those of trained weights. Statistics of private clients are not sent.
    """

    def __init__(self, federation: Federation, payload: Payload, seed: int, device: str) -> None:
        self._federation, self._payload, self._seed, self._device = federation, payload, seed, device
        self.errors = ClientVectors()
        self.bytes_up = count_bytes_up(federation.compression, payload) + 4 * federation.sends_extra * payload.weights
        self.bytes_down = 4 * (payload.size + federation.sends_extra * payload.weights)

    def send(self, client: int, number: int, start: Tensor, weights: Tensor, is_poisoned: bool) -> Tensor:
        """Return the weights of `client` as the server gets them in round `number`, float64 [n]."""
        if is_poisoned:
            weights = start + POISON_FACTOR * (weights - start)
        trained, privacy = self._payload.weights, self._federation.privacy
        statistics = weights[trained:] if privacy.mode == "none" else start[trained:]
        update = (weights - start)[:trained]
        if privacy.mode != "none":
            update = clip_update(update, privacy.clip)
        if privacy.mode == "local":
            update = update + self._draw_noise("local noise", number, client)
        if self._federation.compression.kind != "none":
            update = self._compress(client, update)
            if privacy.mode == "central":
                update = clip_update(update, privacy.clip)
        elif privacy.mode == "none":
            return weights
        # Statistics are few; they are sent as they are.
        return torch.cat([start[:trained] + update, statistics])

    def draw_central_noise(self, number: int) -> Tensor:
        """Return the noise on the sum of updates in round `number`, float64 [n], without any on statistics."""
        payload = self._payload
        statistics = torch.zeros(payload.size - payload.weights, dtype=torch.float64, device=self._device)
        return torch.cat([self._draw_noise("central noise", number), statistics])

    def _draw_noise(self, *names: str | int) -> Tensor:
        """Return keyed normal noise of the deviation that the privacy asks for, float64 [trained weights]."""
        privacy = self._federation.privacy
        generator = torch.Generator().manual_seed(derive_seed(self._seed, *names))
        noise = torch.randn(self._payload.weights, dtype=torch.float64, generator=generator)
        return (privacy.noise * privacy.clip * noise).to(self._device)

    def _compress(self, client: int, update: Tensor) -> Tensor:
        """Return the update of trained weights as the server decodes it, and keep its error."""
        update = update.float()
        error = self.errors.get(client)
        if error is not None:
            update = update + error.to(update.device)
        sent = compress(self._federation.compression, update, self._payload)
        self.errors.set(client, update - sent)
        return sent.double()

    def state_dict(self) -> dict[str, Any]:
        return self.errors.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.errors.load_state_dict(state)


def clip_update(update: Tensor, norm: float) -> Tensor:
    """Return `update` scaled down to an L2 norm of `norm` at most."""
    length = float(update.norm())
    return update * (norm / length) if length > norm else update


def compress(compression: Compression, update: Tensor, payload: Payload) -> Tensor:
    """Return the update as the server decodes it."""
    if compression.kind == "topk":
        kept = update.abs().topk(count_kept(compression, len(update))).indices
        sent = torch.zeros_like(update)
        sent[kept] = update[kept]
        return sent
    return torch.cat([round_to_int8(part) for part in payload.split_weights(update)])


def round_to_int8(values: Tensor) -> Tensor:
    """Round to whole multiples of max|values| / 127, the numbers that int8 and one scale can hold."""
    scale = values.abs().max() / 127
    return (values / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(-127, 127) * scale


def count_kept(compression: Compression, size: int) -> int:
    """Return the entries that topk sends of `size`."""
    return max(1, math.ceil(compression.share * size))


def count_bytes_up(compression: Compression, payload: Payload) -> int:
    """Return the bytes of an update: numbers, and the scales or the places that decode them."""
    statistics = 4 * (payload.size - payload.weights)
    if compression.kind == "int8":
        return payload.weights + 4 * len(payload.weight_sizes) + statistics
    if compression.kind == "topk":
        return 8 * count_kept(compression, payload.weights) + statistics
    return 4 * payload.size
