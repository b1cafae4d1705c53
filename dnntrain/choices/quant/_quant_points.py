"""Which tensors of a model an integer kernel would hold: found by watching one image go through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from dnntrain.errors import ConfigError


@dataclass(frozen=True)
class Flow:
    """Names of modules.

    layers   convolutions and linear layers that were called
    folded   convolution → the batch normalisation that alone reads its result
    inputs   layers whose input is to be quantised
    outputs  modules whose output is: operands of residual additions, and convolutions that no integer kernel would end otherwise
    relu     of these, those whose output goes through a ReLU at once: their range begins at 0, so that rounding is the ReLU, too
    """

    layers: tuple[str, ...]
    folded: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    relu: frozenset[str] = frozenset()


def watched(model: nn.Module, shape: Sequence[int]) -> Flow:
    """The flow of an image of `shape` through `model`, which is left as it was.

    Raises ConfigError where a convolution or linear layer has a forward pass of its own: it cannot be quantised by its weight.
    """
    seen = _Watch()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with _still(model), _hooks(model, seen), torch.no_grad(), seen:
        model(torch.zeros(1, *shape, device=device))
    modules = dict(model.named_modules())
    layers = tuple(call.name for call in seen.unique() if isinstance(modules[call.name], nn.Conv2d | nn.Linear))
    for name in layers:
        _check_known(name, modules[name])
    folded = _foldable(seen, modules)
    outputs, relu = _ends(seen, modules, folded)
    for pair in seen.added:
        for makers in pair:
            once = [name for name, _ in makers if seen.times[name] == 1]
            if once and len(pair) == 2:
                outputs[once[-1]] = None
    held = {name for name in outputs if name not in seen.passing}
    inputs = tuple(
        name
        for name in layers
        if not (seen.times[name] == 1 and held.intersection(maker for maker, _ in seen.call(name).makers))
    )
    return Flow(layers, folded, inputs, tuple(outputs), frozenset(relu))


@dataclass
class _Call:
    """One call of a module: who made its input, and the ids of its input and output."""

    name: str
    makers: list[tuple[str, int]]
    source: int
    result: int = 0


@dataclass
class _Watch(TorchFunctionMode):
    """Notes which functions read each tensor. Tensors are kept, so that no id is used twice."""

    readers: dict[int, list[str]] = field(default_factory=dict)
    results: dict[int, list[int]] = field(default_factory=dict)
    made: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    added: list[tuple[list[tuple[str, int]], ...]] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    passing: set[str] = field(default_factory=set)
    kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", func)).strip("_")
        tensors = [item for item in args if isinstance(item, Tensor)]
        if name in _ADDITIONS and len(tensors) == 2 and tensors[0].ndim == 4 and tensors[0].shape == tensors[1].shape:
            self.added.append(tuple(self.makers(tensor) for tensor in tensors))
        result = func(*args, **(kwargs or {}))
        if name not in _LOOKS:
            for tensor in tensors:
                self.kept.append(tensor)
                self.readers.setdefault(id(tensor), []).append(name)
                if isinstance(result, Tensor):
                    self.kept.append(result)
                    self.results.setdefault(id(tensor), []).append(id(result))
        return result

    def makers(self, tensor: Tensor) -> list[tuple[str, int]]:
        """Modules that returned `tensor` as it is now, the innermost first."""
        return [item for item in self.made.get(id(tensor), []) if item[1] == tensor._version]

    def unique(self) -> Iterator[_Call]:
        """The first call of each module."""
        names: set[str] = set()
        for call in self.calls:
            if call.name not in names:
                names.add(call.name)
                yield call

    def call(self, name: str) -> _Call:
        return next(call for call in self.calls if call.name == name)


#: Functions that look at a tensor's form, not at its numbers.
_LOOKS = {"get", "size", "dim", "set_grad_enabled", "stride", "is_contiguous"}
_ADDITIONS = {"add", "iadd", "radd"}
_RELUS = {"relu"}
#: Where a quantised convolution may end: at the quantised input of another layer, or at an addition, whose operands are quantised.
_ENDS = {"conv2d", "linear", *_ADDITIONS}


def _foldable(seen: _Watch, modules: dict[str, nn.Module]) -> dict[str, str]:
    convolutions = {
        call.result: call.name
        for call in seen.calls
        if isinstance(modules[call.name], nn.Conv2d) and seen.times[call.name] == 1
    }
    found = {}
    for call in seen.calls:
        norm = modules[call.name]
        if isinstance(norm, _BatchNorm) and seen.times[call.name] == 1 and norm.running_var is not None:
            name = convolutions.get(call.source)
            if name is not None and seen.readers[call.source] == ["batch_norm"]:
                found[name] = call.name
    return found


def _ends(seen: _Watch, modules: dict[str, nn.Module], folded: dict[str, str]) -> tuple[dict[str, None], list[str]]:
    """Convolutions, or what is folded into them, after which no layer or addition follows but for a ReLU."""
    outputs: dict[str, None] = {}
    relu = []
    for call in seen.unique():
        if not isinstance(modules[call.name], nn.Conv2d) or seen.times[call.name] > 1:
            continue
        name = folded.get(call.name, call.name)
        result = seen.call(name).result
        readers = seen.readers.get(result, [])
        if readers and readers[0] in _RELUS:
            after = seen.results[result][0]
            rest = readers[1:] if after == result else seen.readers.get(after, [])
            if not set(rest) <= _ENDS:
                outputs[name] = None
                # In place, or read by the ReLU alone: no negative number is used.
                relu += [name] if after == result or len(readers) == 1 else []
        elif readers and not set(readers) <= _ENDS:
            outputs[name] = None
    return outputs, relu


@contextmanager
def _hooks(model: nn.Module, seen: _Watch) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(partial(_before, seen, name)))
            handles.append(module.register_forward_hook(partial(_after, seen, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(seen: _Watch, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    source = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
    makers = [] if source is None else seen.makers(source)
    seen.kept.append(source)
    seen.times[name] += 1
    seen.calls.append(_Call(name, makers, id(source)))


def _after(seen: _Watch, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    call = next(call for call in reversed(seen.calls) if call.name == name)
    if isinstance(output, Tensor):
        seen.kept.append(output)
        call.result = id(output)
        seen.made.setdefault(id(output), []).append((name, output._version))
        if call.result == call.source:
            seen.passing.add(name)


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards each module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_known(name: str, layer: nn.Module) -> None:
    own: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (type(layer).forward, nn.Conv2d.forward if isinstance(layer, nn.Conv2d) else nn.Linear.forward)
    ]
    if isinstance(layer, nn.Conv2d):
        own.append((type(layer)._conv_forward, nn.Conv2d._conv_forward))
    if any(mine is not torchs for mine, torchs in own):
        raise ConfigError(
            f"quant=qat cannot quantise {name}: {type(layer).__name__} computes with its weight in a way of its own",
            "use norm=keep, or quant=int8_static, which quantises what was trained",
        )
