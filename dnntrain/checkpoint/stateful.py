"""The states that torch's own objects keep, in the plain form that a checkpoint takes: names, tensors, JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ModelState:
    """Parameters and buffers by their plain names."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        return dict(self._model.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._model.load_state_dict(dict(state), strict=True)


class OptimizerState:
    """The state of several optimizers by parameter name. Learning rates are not state: the schedule is a function of the step."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers

    def state_dict(self) -> dict[str, Any]:
        return {
            f"{number}-{type(optimizer).__name__}": {
                name: dict(optimizer.state[parameter])
                for name, parameter in _named(optimizer)
                if parameter in optimizer.state
            }
            for number, optimizer in enumerate(self._optimizers)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state) != len(self._optimizers):
            raise ValueError(f"{len(state)} optimizers were saved, {len(self._optimizers)} are used")
        for place, optimizer in enumerate(self._optimizers):
            saved = state[f"{place}-{type(optimizer).__name__}"]
            parameters = dict(_named(optimizer))
            if unknown := set(saved) - set(parameters):
                raise ValueError(f"saved state of unknown parameters {sorted(unknown)[:5]}")
            # Set in place: optimizer.load_state_dict would replace the parameter groups that the schedule holds on to.
            for name, values in saved.items():
                parameter = parameters[name]
                optimizer.state[parameter] = {key: _like(value, parameter) for key, value in values.items()}


class ScalerState:
    """The loss scale of float16, and how long it has held."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler

    def state_dict(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scaler.load_state_dict(dict(state))


class RandomState:
    """The generators of what cannot be keyed, such as dropout inside a model: the host's and the device's, of every rank.

    `gather` gives a tensor's values on all ranks. A rank that the saved run did not have keeps its own fresh stream.
    """

    def __init__(
        self, device: str, rank: int = 0, gather: Callable[[Tensor], list[Tensor]] = lambda own: [own]
    ) -> None:
        self._cuda = torch.device(device) if device.startswith("cuda") else None
        self._rank = rank
        self._gather = gather

    def state_dict(self) -> dict[str, Any]:
        state = {"cpu": self._of_ranks(torch.get_rng_state())}
        if self._cuda is not None:
            state["cuda"] = self._of_ranks(torch.cuda.get_rng_state(self._cuda))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rank = str(self._rank)
        if rank in state["cpu"]:
            torch.set_rng_state(state["cpu"][rank])
        if self._cuda is not None and rank in state.get("cuda", {}):
            torch.cuda.set_rng_state(state["cuda"][rank], self._cuda)

    def _of_ranks(self, own: Tensor) -> dict[str, Tensor]:
        return {str(rank): tensor for rank, tensor in enumerate(self._gather(own))}


def _like(value: Any, parameter: torch.Tensor) -> Any:
    """`value` on the device and in the memory format of its parameter: fused optimizers walk through both in the order of memory."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)
    return value.to(parameter.device)


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    ]
