"""The steps of a server: the mean of the clients, or an optimizer on their mean update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor


class MeanServer:
    """new = start + lr * v, with v = momentum * v + (mean - start) (FedAvg; with momentum FedAvgM).

    With lr=1 and momentum=0 the new weights are the mean itself. Sources: McMahan et al., 2017; Hsu
    et al., 2019.
    """

    def __init__(self, lr: float = 1.0, momentum: float = 0.0) -> None:
        self._lr, self._momentum = lr, momentum
        self._velocity: Tensor | None = None

    def step(self, start: Tensor, mean: Tensor) -> Tensor:
        if self._momentum:
            update = mean - start
            self._velocity = (
                update if self._velocity is None else self._momentum * self._velocity.to(start.device) + update
            )
            return start + self._lr * self._velocity
        return mean if self._lr == 1.0 else start + self._lr * (mean - start)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._velocity is None else {"velocity": self._velocity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._velocity = state.get("velocity")


class AdaptiveServer:
    """new = start + lr * m / (√v + tau), with Δ = mean - start and m = beta1 * m + (1 - beta1) * Δ.

    v begins at tau². kind "adam": v = beta2 * v + (1 - beta2) * Δ²; kind "yogi": v = v - (1 - beta2)
    * Δ² * sign(v - Δ²). Source: Reddi et al., "Adaptive federated optimization", 2021.
    """

    def __init__(self, kind: Literal["adam", "yogi"], lr: float, beta1: float, beta2: float, tau: float) -> None:
        self._kind, self._lr, self._beta1, self._beta2, self._tau = kind, lr, beta1, beta2, tau
        self._moments: tuple[Tensor, Tensor] | None = None

    def step(self, start: Tensor, mean: Tensor) -> Tensor:
        update = mean - start
        first, second = (moment.to(start.device) for moment in self._moments or self._begin(start))
        first = self._beta1 * first + (1 - self._beta1) * update
        square = update.square()
        if self._kind == "adam":
            second = self._beta2 * second + (1 - self._beta2) * square
        else:
            second = second - (1 - self._beta2) * square * (second - square).sign()
        self._moments = first, second
        return start + self._lr * first / (second.sqrt() + self._tau)

    def _begin(self, start: Tensor) -> tuple[Tensor, Tensor]:
        return start.new_zeros(len(start)), start.new_full((len(start),), self._tau**2)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._moments is None else {"first": self._moments[0], "second": self._moments[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._moments = (state["first"], state["second"]) if state else None
