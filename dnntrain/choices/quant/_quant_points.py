"""Find the tensors of a model that an integer kernel would quantize.

They are found by tracing one input through the model.
"""

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
class QuantPoints:
    """Names of modules.

    layers   convolutions and linear layers that were called
    folded   convolution → the batch normalization that is the only reader of its result
    inputs   layers with a quantized input
    outputs  modules with a quantized output: operands of residual additions, and convolutions that no
             integer kernel would end otherwise
    relu     members of `outputs` followed directly by a ReLU: their range begins at 0, so that rounding
             also computes the ReLU
    """

    layers: tuple[str, ...]
    folded: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    relu: frozenset[str] = frozenset()


def find_quant_points(model: nn.Module, shape: Sequence[int]) -> QuantPoints:
    """Trace an input of `shape` through `model`, which does not change.

    Raises ConfigError if a convolution or linear layer has a custom forward pass: it cannot be
    quantized by its weight.
    """
    recorder = _FlowRecorder()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with _eval_mode(model), _attach_hooks(model, recorder), torch.no_grad(), recorder:
        recorder.output = id(model(torch.zeros(1, *shape, device=device)))
    modules = dict(model.named_modules())
    layers = tuple(
        call.name for call in recorder.iterate_first_calls() if isinstance(modules[call.name], nn.Conv2d | nn.Linear)
    )
    for name in layers:
        _check_forward(name, modules[name])
    folded = _find_foldable(recorder, modules)
    outputs, relu = _find_outputs(recorder, modules, folded)
    for pair in recorder.additions:
        for makers in pair:
            single_calls = [name for name, _ in makers if recorder.call_counts[name] == 1]
            if single_calls and len(pair) == 2:
                outputs[single_calls[-1]] = None
    quantized_outputs = {name for name in outputs if name not in recorder.passing_modules}
    inputs = tuple(
        name
        for name in layers
        if not (
            recorder.call_counts[name] == 1
            and quantized_outputs.intersection(maker for maker, _ in recorder.get_call(name).makers)
        )
    )
    return QuantPoints(layers, folded, inputs, tuple(outputs), frozenset(relu))


@dataclass
class _ModuleCall:
    """One call of a module: the makers of its input, and the ids of its input and output."""

    name: str
    makers: list[tuple[str, int]]
    source: int
    result: int = 0


@dataclass
class _FlowRecorder(TorchFunctionMode):
    """Record the functions that read each tensor.

    Tensors are kept alive, so that no id occurs twice.
    """

    readers: dict[int, list[str]] = field(default_factory=dict)
    results: dict[int, list[int]] = field(default_factory=dict)
    makers_by_id: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    additions: list[tuple[list[tuple[str, int]], ...]] = field(default_factory=list)
    calls: list[_ModuleCall] = field(default_factory=list)
    call_counts: Counter[str] = field(default_factory=Counter)
    passing_modules: set[str] = field(default_factory=set)
    live_tensors: list[Any] = field(default_factory=list)
    output: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", func)).strip("_")
        tensors = [item for item in args if isinstance(item, Tensor)]
        if name in _ADDITIONS and len(tensors) == 2 and tensors[0].ndim == 4 and tensors[0].shape == tensors[1].shape:
            self.additions.append(tuple(self.get_makers(tensor) for tensor in tensors))
        result = func(*args, **(kwargs or {}))
        if name not in _METADATA_FUNCTIONS:
            for tensor in tensors:
                self.live_tensors.append(tensor)
                self.readers.setdefault(id(tensor), []).append(name)
                if isinstance(result, Tensor):
                    self.live_tensors.append(result)
                    self.results.setdefault(id(tensor), []).append(id(result))
        return result

    def get_makers(self, tensor: Tensor) -> list[tuple[str, int]]:
        """Return the modules that returned the current `tensor`, the innermost first."""
        return [item for item in self.makers_by_id.get(id(tensor), []) if item[1] == tensor._version]

    def iterate_first_calls(self) -> Iterator[_ModuleCall]:
        """Yield the first call of each module."""
        names: set[str] = set()
        for call in self.calls:
            if call.name not in names:
                names.add(call.name)
                yield call

    def get_call(self, name: str) -> _ModuleCall:
        return next(call for call in self.calls if call.name == name)

    def is_output(self, tensor: int) -> bool:
        """Return whether the tensor is the output of the model, or becomes it in another shape."""
        readers = self.readers.get(tensor, [])
        if tensor == self.output or not readers or not set(readers) <= _SHAPE_FUNCTIONS:
            return tensor == self.output
        return all(self.is_output(result) for result in self.results[tensor] if result != tensor)


#: Functions that read a tensor's shape, not its values.
_METADATA_FUNCTIONS = {"get", "size", "dim", "set_grad_enabled", "stride", "is_contiguous"}
_SHAPE_FUNCTIONS = {"flatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
_ADDITIONS = {"add", "iadd", "radd"}
_RELUS = {"relu"}
#: Functions that may end a quantized convolution: another layer with a quantized input, or an addition.
_END_FUNCTIONS = {"conv2d", "linear", *_ADDITIONS}


def _find_foldable(recorder: _FlowRecorder, modules: dict[str, nn.Module]) -> dict[str, str]:
    convolutions = {
        call.result: call.name
        for call in recorder.calls
        if isinstance(modules[call.name], nn.Conv2d) and recorder.call_counts[call.name] == 1
    }
    norm_by_convolution = {}
    for call in recorder.calls:
        norm = modules[call.name]
        if isinstance(norm, _BatchNorm) and recorder.call_counts[call.name] == 1 and norm.running_var is not None:
            name = convolutions.get(call.source)
            if name is not None and recorder.readers[call.source] == ["batch_norm"]:
                norm_by_convolution[name] = call.name
    return norm_by_convolution


def _find_outputs(
    recorder: _FlowRecorder, modules: dict[str, nn.Module], folded: dict[str, str]
) -> tuple[dict[str, None], list[str]]:
    """Find convolutions after which no layer or addition follows, except a ReLU.

    A folded batch normalization takes the place of its convolution.
    """
    outputs: dict[str, None] = {}
    relu = []
    for call in recorder.iterate_first_calls():
        if not isinstance(modules[call.name], nn.Conv2d) or recorder.call_counts[call.name] > 1:
            continue
        name = folded.get(call.name, call.name)
        result = recorder.get_call(name).result
        readers = recorder.readers.get(result, [])
        if recorder.is_output(result):
            continue  # the outputs of the model stay in float
        if readers and readers[0] in _RELUS:
            relu_result = recorder.results[result][0]
            rest = readers[1:] if relu_result == result else recorder.readers.get(relu_result, [])
            if not set(rest) <= _END_FUNCTIONS:
                outputs[name] = None
                # In place, or read by the ReLU alone: no negative value is used.
                relu += [name] if relu_result == result or len(readers) == 1 else []
        elif readers and not set(readers) <= _END_FUNCTIONS:
            outputs[name] = None
    return outputs, relu


@contextmanager
def _attach_hooks(model: nn.Module, recorder: _FlowRecorder) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(partial(_record_input, recorder, name)))
            handles.append(module.register_forward_hook(partial(_record_output, recorder, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record_input(recorder: _FlowRecorder, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    source = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
    makers = [] if source is None else recorder.get_makers(source)
    recorder.live_tensors.append(source)
    recorder.call_counts[name] += 1
    recorder.calls.append(_ModuleCall(name, makers, id(source)))


def _record_output(recorder: _FlowRecorder, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    call = next(call for call in reversed(recorder.calls) if call.name == name)
    if isinstance(output, Tensor):
        recorder.live_tensors.append(output)
        call.result = id(output)
        recorder.makers_by_id.setdefault(id(output), []).append((name, output._version))
        if call.result == call.source:
            recorder.passing_modules.add(name)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode; restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_forward(name: str, layer: nn.Module) -> None:
    method_pairs: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (type(layer).forward, nn.Conv2d.forward if isinstance(layer, nn.Conv2d) else nn.Linear.forward)
    ]
    if isinstance(layer, nn.Conv2d):
        method_pairs.append((type(layer)._conv_forward, nn.Conv2d._conv_forward))
    if any(mine is not torchs for mine, torchs in method_pairs):
        raise ConfigError(
            f"quant=qat cannot quantize {name}, because {type(layer).__name__} computes with its weight in a custom way",
            "use norm=none, or quant=int8_static, which quantizes the trained model",
        )
