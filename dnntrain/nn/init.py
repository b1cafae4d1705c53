"""First weights, keyed by the name of each module: the same on every layout, whatever was built or drawn before.

A module with parameters of its own is reset by its `reset_parameters`, with torch's generator seeded from
(seed, "init", name of the module). What that does not cover, a module says itself:

    initialise_own()    first values of bare parameters (a class token), or rules after the layers' own (a zero scale)
    weight_scheme       of the model: a function applied to each module after its reset; see `schemes.py`
    fresh               builds the model anew; for models of libraries and users, whose constructors hold the rules

torch's global generator is as before when `initialise` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dnntrain.utils.rng import derive


@runtime_checkable
class InitialisesItself(Protocol):
    """A module with first values of its own, drawn from torch's generator, which is seeded for it."""

    def initialise_own(self) -> None: ...


def initialise(model: nn.Module, seed: int) -> None:
    """Gives every parameter and buffer of `model`, which is on the CPU, its first value.

    Parameters of a module that has none of the rules above stay as its constructor left them.
    """
    scheme: Callable[[nn.Module], None] | None = getattr(model, "weight_scheme", None)
    foreign = tuple(name for name, module in model.named_modules() if hasattr(module, "fresh"))
    for name, module in model.named_modules():
        with keyed_generator(seed, name), torch.no_grad():
            if name in foreign:
                _copy_fresh(module)
            elif not _inside(name, foreign):
                _reset(module)
                if scheme is not None:
                    scheme(module)
    # After every layer, so that the rules of a block have the last word over those of its layers.
    for name, module in model.named_modules():
        if isinstance(module, InitialisesItself):
            with keyed_generator(seed, name, "own"), torch.no_grad():
                module.initialise_own()


@contextmanager
def keyed_generator(seed: int, *names: str) -> Iterator[None]:
    """torch's CPU generator, seeded from `seed` and `names`, and put back afterwards; no other device's is touched."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(derive(seed, "init", *names))
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _reset(module: nn.Module) -> None:
    """The layer's own rule; attention spells it with an underscore."""
    if not any(True for _ in module.parameters(recurse=False)) and not any(True for _ in module.buffers(recurse=False)):
        return
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        reset()


def _copy_fresh(model: nn.Module) -> None:
    """Copies what a newly built model holds, by name; a layer that a transform has put in is reset by its own rule."""
    built: nn.Module = model.fresh()  # type: ignore[operator]
    theirs = dict(built.named_modules())
    for name, module in model.named_modules():
        source = _tensors(theirs[name]) if name in theirs else {}
        mine = _tensors(module)
        # What a transform keeps beside a layer's own tensors, and is not saved with them, starts as it is.
        mine = {
            key: tensor
            for key, tensor in mine.items()
            if key in source or key not in module._non_persistent_buffers_set
        }
        if mine.keys() <= source.keys() and all(mine[key].shape == source[key].shape for key in mine):
            for key, tensor in mine.items():
                tensor.copy_(source[key])
        else:
            _reset(module)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers that are the module's own."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(prefix == "" or name.startswith(f"{prefix}.") for prefix in prefixes)
