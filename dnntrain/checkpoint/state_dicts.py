"""Convert the states of torch objects to and from the form of a checkpoint.

The form has names, tensors and JSON values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.utils.dtensor import distribute_like, fill_tensors


class ModelState:
    """Parameters and buffers by plain name.

    A pipeline stage has only some of the saved names.
    """

    def __init__(self, model: nn.Module, is_partial: bool = False) -> None:
        self._model = model
        self._part = is_partial

    def state_dict(self) -> dict[str, Any]:
        return dict(self._model.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        tensors = self._model.state_dict(keep_vars=True)
        if missing := set(tensors) - set(state):
            raise ValueError(f"the saved state lacks weights for {sorted(missing)[:5]}")
        if not self._part and (unknown := set(state) - set(tensors)):
            raise ValueError(f"the saved state has weights of unknown names {sorted(unknown)[:5]}")
        fill_tensors(tensors, state)


class OptimizerState:
    """The state of several optimizers by parameter name.

    Learning rates are not state: the schedule is a function of the step. Restored tensors have the
    memory layout of their parameters: fused optimizers traverse both in memory order.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], is_partial: bool = False) -> None:
        self._optimizers = optimizers
        self._part = is_partial

    def state_dict(self) -> dict[str, Any]:
        return {
            f"{number}-{type(optimizer).__name__}": {
                name: dict(optimizer.state[parameter])
                for name, parameter in _list_named_parameters(optimizer)
                if parameter in optimizer.state
            }
            for number, optimizer in enumerate(self._optimizers)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # The ranks of a pipeline may number theirs differently: one may hold no matrix for Muon.
        saved_by_kind: dict[str, dict[str, Any]] = {}
        for key, saved in state.items():
            saved_by_kind.setdefault(key.partition("-")[2], {}).update(saved)
        kinds = {type(optimizer).__name__ for optimizer in self._optimizers}
        if not kinds <= set(saved_by_kind) or (not self._part and kinds != set(saved_by_kind)):
            names = (", ".join(sorted(item)) or "none" for item in (saved_by_kind, kinds))
            raise ValueError("the optimizers {} were saved, but {} are used".format(*names))
        for optimizer in self._optimizers:
            saved_state = saved_by_kind[type(optimizer).__name__]
            parameters = dict(_list_named_parameters(optimizer))
            device_counters = _find_device_counters(optimizer)
            used = {
                name
                for other in self._optimizers
                if type(other) is type(optimizer)
                for name, _ in _list_named_parameters(other)
            }
            if not self._part and (unknown := set(saved_state) - used):
                raise ValueError(f"the saved state has unknown parameters {sorted(unknown)[:5]}")
            # Set in place: optimizer.load_state_dict would replace the parameter groups that the
            # schedule references.
            for name, parameter in parameters.items():
                if name in saved_state:
                    optimizer.state[parameter] = {
                        key: value.clone()
                        if key == "step" and isinstance(value, Tensor) and parameter not in device_counters
                        else distribute_like(value, parameter)
                        for key, value in saved_state[name].items()
                    }


def _find_device_counters(optimizer: torch.optim.Optimizer) -> set[Tensor]:
    """Return the parameters whose count of steps is on their device; torch keeps others on the host, which reads them."""
    return {
        parameter
        for group in optimizer.param_groups
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }


class ScalerState:
    """The loss scale of float16, and the number of steps since its last change."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler

    def state_dict(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scaler.load_state_dict(dict(state))


class RandomState:
    """The generators for random numbers without a key, such as dropout inside a model.

    It holds the generators of the host and the device on every rank. `gather` returns a tensor of
    each rank on all ranks. A rank that the saved run did not have keeps its own new stream.
    """

    def __init__(
        self, device: str, rank: int = 0, gather: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor]
    ) -> None:
        self._cuda = torch.device(device) if device.startswith("cuda") else None
        self._rank = rank
        self._gather = gather

    def state_dict(self) -> dict[str, Any]:
        state = {"cpu": self._gather_by_rank(torch.get_rng_state())}
        if self._cuda is not None:
            state["cuda"] = self._gather_by_rank(torch.cuda.get_rng_state(self._cuda))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rank = str(self._rank)
        if rank in state["cpu"]:
            torch.set_rng_state(state["cpu"][rank])
        if self._cuda is not None and rank in state.get("cuda", {}):
            torch.cuda.set_rng_state(state["cuda"][rank], self._cuda)

    def _gather_by_rank(self, rng_state: Tensor) -> dict[str, Tensor]:
        return {str(rank): tensor for rank, tensor in enumerate(self._gather(rng_state))}


def _list_named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    ]
