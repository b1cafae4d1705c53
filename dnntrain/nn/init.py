"""Initialize weights keyed by module name, equal for every layout.

The order in which models are built or numbers are drawn does not matter. A module with its own
parameters is reset by its `reset_parameters`, with torch's generator seeded from (seed, "init",
name of the module). A module declares further rules itself:

    initialize_own_parameters()  values of bare parameters (a class token), or rules after the
                                 layers' own (a zero scale)
    weight_scheme                of the model: a function applied to each module after its reset
    fresh                        builds a new model; for models of libraries and users, whose
                                 constructors hold the rules

`initialize_weights` restores torch's global generator when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dnntrain.nn.added_parameters import AddsParameters
from dnntrain.utils.rng import derive_seed


@runtime_checkable
class SelfInitializer(Protocol):
    """A module that initializes its own parameters from torch's seeded generator."""

    def initialize_own_parameters(self) -> None: ...


def initialize_weights(model: nn.Module, seed: int) -> None:
    """Initialize every parameter and buffer of `model`, which is on the CPU.

    Parameters of a module without any of the rules above keep the values of its constructor.
    """
    scheme: Callable[[nn.Module], None] | None = getattr(model, "weight_scheme", None)
    foreign_names = tuple(name for name, module in model.named_modules() if hasattr(module, "fresh"))
    for name, module in model.named_modules():
        with keyed_generator(seed, name), torch.no_grad():
            if name in foreign_names:
                _copy_fresh_tensors(module)
            elif not _is_inside(name, foreign_names):
                _reset_module(module)
                if scheme is not None:
                    scheme(module)
    # After every layer, so that the rules of a block override the rules of its layers.
    for name, module in model.named_modules():
        is_foreign = name in foreign_names or _is_inside(name, foreign_names)
        if isinstance(module, SelfInitializer) and (not is_foreign or isinstance(module, AddsParameters)):
            with keyed_generator(seed, name, "own"), torch.no_grad():
                module.initialize_own_parameters()


@contextmanager
def keyed_generator(seed: int, *names: str) -> Iterator[None]:
    """Seed torch's CPU generator from `seed` and `names`, and restore it afterwards.

    Generators of other devices do not change.
    """
    previous_state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(derive_seed(seed, "init", *names))
    try:
        yield
    finally:
        torch.default_generator.set_state(previous_state)


def _reset_module(module: nn.Module) -> None:
    """Reset the module by its own rule; attention spells it with an underscore."""
    if not any(True for _ in module.parameters(recurse=False)) and not any(True for _ in module.buffers(recurse=False)):
        return
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        reset()


def _copy_fresh_tensors(model: nn.Module) -> None:
    """Copy the tensors of a newly built model by name.

    A layer that a transform added is reset by its own rule.
    """
    fresh_model: nn.Module = model.fresh()  # type: ignore[operator]
    fresh_modules = dict(fresh_model.named_modules())
    for name, module in model.named_modules():
        fresh_tensors = _get_own_tensors(fresh_modules[name]) if name in fresh_modules else {}
        own_tensors = _get_own_tensors(module)
        # Tensors that a transform keeps beside a layer's own, and that are not saved with them,
        # keep their values.
        own_tensors = {
            key: tensor
            for key, tensor in own_tensors.items()
            if key in fresh_tensors or not (key in module._non_persistent_buffers_set or key in _list_added(module))
        }
        if own_tensors.keys() <= fresh_tensors.keys() and all(
            own_tensors[key].shape == fresh_tensors[key].shape for key in own_tensors
        ):
            for key, tensor in own_tensors.items():
                tensor.copy_(fresh_tensors[key])
        else:
            _reset_module(module)


def _list_added(module: nn.Module) -> tuple[str, ...]:
    return module.added_parameters if isinstance(module, AddsParameters) else ()


def _get_own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the module's own parameters and buffers, without those of inner modules."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _is_inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(prefix == "" or name.startswith(f"{prefix}.") for prefix in prefixes)
