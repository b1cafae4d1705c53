"""Trace a network, and find which of its channels must be removed together.

torch.fx records the operators of one forward pass. Labels run through them (`operators.py`), and
join the indices of parameters that one removal concerns: a unit. Units that concern the same axes
of the same parameters are a group, such as the channels of a stage or the heads of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from dnntrain.pruning import layer_operators  # noqa: F401  (registers its rules)
from dnntrain.pruning.labels import get_varying_axes
from dnntrain.pruning.operators import apply_rule, make_fixed
from dnntrain.pruning.propagation import Activation, Parameter, Propagation

#: An axis of a parameter or buffer: its name and the number of the axis.
Axis = tuple[str, int]

#: Examples of the traced pass: more than one, so that no dimension looks like a batch of 1.
_EXAMPLES = 2

_REASON_OUTPUT = "they are the outputs of the network"
_REASON_REST = "its whole width belongs together"


@dataclass(frozen=True)
class Group:
    """Units that concern the same axes.

    name   the first layer that makes the channels
    axes   the axes of parameters and buffers that the units are parts of
    units  for each unit the indices along each axis, in the order of `axes`
    """

    name: str
    axes: tuple[Axis, ...]
    units: tuple[tuple[NDArray[np.int64], ...], ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Coupling:
    """The groups of a network, and why the other axes of its layers stay as they are."""

    groups: tuple[Group, ...]
    frozen: Mapping[str, str]
    unknown: Mapping[str, int]


def find_groups(model: nn.Module, inputs: Tensor) -> Coupling:
    """Return the groups of `model`, traced in eval mode on inputs of the shape of `inputs` [1, …].

    Raises RuntimeError if the network cannot be traced.
    """
    state = Propagation()
    _propagate(state, _trace(model, inputs))
    _make_rectangular(state)
    return _collect(state, {**dict(model.named_parameters()), **dict(model.named_buffers())})


def _trace(model: nn.Module, inputs: Tensor) -> torch.fx.GraphModule:
    """Return the graph of one forward pass; its first placeholders are parameters and buffers, by name."""
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    images = torch.zeros(_EXAMPLES, *inputs.shape[1:], dtype=inputs.dtype)

    def run(values: dict[str, Tensor], batch: Tensor) -> Any:
        return functional_call(model, values, (batch,))

    was_training, had_fast_path = model.training, torch.backends.mha.get_fastpath_enabled()
    model.eval()
    # The fast path of attention is one operator, which hides the heads.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            graph: torch.fx.GraphModule = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(plain, images)
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)
        model.train(was_training)
    constants = _list_constants(model)
    for node, name in zip(graph.graph.nodes, plain, strict=False):
        if name not in constants:
            node.meta["parameter"] = name
    return graph


def _list_constants(model: nn.Module) -> set[str]:
    """Return the names of buffers that are not saved: they are computed from sizes, such as rotary angles."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }


def _propagate(state: Propagation, graph: torch.fx.GraphModule) -> None:
    values: dict[torch.fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if "parameter" in node.meta and node.op == "placeholder":
            shape = tuple(int(size) for size in node.meta["val"].shape)
            values[node] = Parameter(node.meta["parameter"], shape, tuple(range(len(shape))))
        elif node.op in ("placeholder", "get_attr"):
            values[node] = _fix_tensor(graph, node)
        elif node.op == "output":
            for item in _list_results(torch.fx.node.map_arg(node.args[0], values.__getitem__)):
                state.atoms.freeze(state.as_activation(item, "the output").labels, _REASON_OUTPUT)
        elif "getitem" in str(node.target):
            values[node] = values[node.args[0]][node.args[1]]
        else:
            arguments = torch.fx.node.map_arg(node.args, values.__getitem__)
            values[node] = apply_rule(state, node, arguments)


def _fix_tensor(graph: torch.fx.GraphModule, node: torch.fx.Node) -> Any:
    if "val" in node.meta:
        return make_fixed(node)
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    return Activation(np.zeros([1] * len(shape), np.int64), shape)


def _list_results(results: Any) -> list[Any]:
    if isinstance(results, list | tuple):
        return [item for result in results for item in _list_results(result)]
    return [] if results is None else [results]


def _make_rectangular(state: Propagation) -> None:
    """Join atoms until every tensor loses whole slices along one axis only."""
    is_settled = False
    while not is_settled:
        is_settled = True
        for tensor in state.tensors:
            labels = state.atoms.simplify(tensor.labels, _REASON_REST)
            axes = get_varying_axes(labels)
            if len(axes) < 2:
                continue
            is_settled = False
            kept = max(axes, key=lambda axis: (labels.shape[axis], -axis))
            for axis in axes:
                if axis != kept:
                    labels = state.atoms.merge_along(labels, axis, _REASON_REST)


def _collect(state: Propagation, tensors: Mapping[str, Tensor]) -> Coupling:
    """Gather the atoms of the parameters' axes into units, and the units into groups."""
    members: dict[int, dict[Axis, NDArray[np.int64]]] = {}
    order = {name: place for place, name in enumerate(tensors)}
    for axis in sorted(state.axes, key=lambda axis: (order[axis[0]], axis[1])):
        roots = state.atoms.find(state.axes[axis])
        for root in np.unique(roots):
            indices = np.flatnonzero(roots == root)
            members.setdefault(int(root), {})[axis] = indices
            if root and len(indices) == len(roots):
                state.atoms.freeze(np.array([root]), _REASON_REST)
    frozen: dict[str, str] = {}
    groups: dict[tuple[Axis, ...], list[tuple[NDArray[np.int64], ...]]] = {}
    for root, axes in members.items():
        reason = state.atoms.get_reason(root)
        if root and reason is None:
            groups.setdefault(tuple(axes), []).append(tuple(axes.values()))
        elif root:
            for name, _ in axes:
                if _is_producer(axes, name, tensors):
                    frozen.setdefault(name.rpartition(".")[0] or name, str(reason))
    coupled = [
        Group(_name_group(axes, tensors), axes, tuple(units)) for axes, units in groups.items() if len(units) > 1
    ]
    whole = {_name_group(axes, tensors) for axes, units in groups.items() if len(units) == 1}
    frozen.update(dict.fromkeys(whole, _REASON_REST))
    return Coupling(tuple(coupled), frozen, dict(state.unknown))


def _is_producer(axes: Mapping[Axis, Any], name: str, tensors: Mapping[str, Tensor]) -> bool:
    return (name, 0) in axes and tensors[name].ndim > 1


def _name_group(axes: tuple[Axis, ...], tensors: Mapping[str, Tensor]) -> str:
    producers = [name for name, axis in axes if axis == 0 and tensors[name].ndim > 1]
    name = producers[0] if producers else axes[0][0]
    return name.rpartition(".")[0] or name
