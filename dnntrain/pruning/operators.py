"""Rules that carry labels through the operators of a network.

A rule gets the propagation and the node, and returns the labels of the result: `Activation` for a
tensor, a list for several. An operator without a rule freezes the labels of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dnntrain.pruning.labels import Labels, get_varying_axes, reshape_labels
from dnntrain.pruning.propagation import Activation, Parameter, Propagation

if TYPE_CHECKING:
    from torch.fx import Node


#: Operators that compute each element from those at the same place.
_ELEMENTWISE = """
relu gelu silu sigmoid hardtanh hardswish hardsigmoid leaky_relu elu tanh clone alias detach
contiguous _to_copy native_dropout dropout abs neg exp sqrt rsqrt clamp clamp_min clamp_max softplus
mish log erf lift_fresh_copy reciprocal square threshold log_sigmoid celu selu relu6 logical_not
bitwise_not add sub mul div pow maximum minimum where addcmul lerp masked_fill eq ne gt lt ge le
rsub copy logical_and logical_or fill true_divide __and__ __or__
""".split()  # noqa: SIM905

#: Operators that make constants.
_CONSTANTS = """
empty zeros ones full arange scalar_tensor new_zeros new_ones new_empty new_full rand empty_like
zeros_like ones_like full_like
""".split()  # noqa: SIM905

Rule = Callable[[Propagation, "Node", Sequence[Any]], Any]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def get_operator_name(node: Node) -> str:
    """Return the name of the operator without namespace and overload: `aten.add_.Tensor` → `add`."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name.rstrip("_") if not name.startswith("_") else name


def apply_rule(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    """Return the labels of the results of `node`; `values` are those of its arguments."""
    name = get_operator_name(node)
    if name in RULES:
        return RULES[name](state, node, values)
    inputs = [state.as_activation(item, name) for item in _flatten(values)]
    if any(item.labels.any() for item in inputs):
        state.unknown[name] = state.unknown.get(name, 0) + 1
    for item in inputs:
        state.atoms.freeze(item.labels, f"the operator {name} is not known to pruning")
    return make_fixed(node)


def make_fixed(node: Node) -> Any:
    """Return results that are never cut."""
    return _fix(node.meta.get("val"))


def _fix(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_fix(item) for item in value]
    shape = tuple(int(size) for size in getattr(value, "shape", ()))
    return Activation(np.zeros([1] * len(shape), np.int64), shape)


def _flatten(values: Any) -> list[Activation | Parameter]:
    if isinstance(values, Activation | Parameter):
        return [values]
    if isinstance(values, list | tuple):
        return [item for value in values for item in _flatten(value)]
    if isinstance(values, dict):
        return _flatten(list(values.values()))
    return []


def get_shape(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's result, or of its first result."""
    value = node.meta["val"]
    return tuple(int(size) for size in (value[0] if isinstance(value, list | tuple) else value).shape)


def _get_argument(node: Node, values: Sequence[Any], place: int, name: str, default: Any) -> Any:
    return values[place] if len(values) > place else node.kwargs.get(name, default)


def broadcast(state: Propagation, inputs: Sequence[Activation], shape: Sequence[int], reason: str) -> Labels:
    """Join the labels of tensors that meet element by element, and return those of the result."""
    rank = len(shape)
    result = np.zeros([1] * rank, np.int64)
    result_shape: tuple[int, ...] = (1,) * rank
    for item in inputs:
        missing = rank - len(item.shape)
        labels = item.labels.reshape((1,) * missing + item.labels.shape)
        actual = (1,) * missing + item.shape
        result = _join_pair(state, (result, result_shape), (labels, actual), reason)
        result_shape = tuple(max(pair) for pair in zip(result_shape, actual, strict=True))
    return result


def _join_pair(
    state: Propagation, left: tuple[Labels, Sequence[int]], right: tuple[Labels, Sequence[int]], reason: str
) -> Labels:
    atoms = state.atoms
    for (one, _), (two, two_shape) in ((left, right), (right, left)):
        if not two.any():
            # A constant that is as long as an axis cannot follow a cut along it.
            for axis in get_varying_axes(one):
                if two_shape[axis] > 1:
                    one = atoms.merge_along(one, axis, f"{reason} with a tensor of fixed size")
            return one
    atoms.join(left[0], right[0], reason)
    return atoms.simplify(np.broadcast_arrays(left[0], right[0])[0], reason)


@_rule(*_ELEMENTWISE)
def _elementwise(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    name = get_operator_name(node)
    if len(values) == 1 and isinstance(values[0], Parameter):
        return values[0]
    inputs = [state.as_activation(item, name) for item in _flatten([*values, dict(node.kwargs)])]
    shape = get_shape(node)
    result = state.finish(broadcast(state, inputs, shape, name), shape, name)
    several = isinstance(node.meta["val"], list | tuple)
    return [result, *make_fixed(node)[1:]] if several else result


@_rule(*_CONSTANTS)
def _constant(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    return make_fixed(node)


@_rule("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten")
def _reshape(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    if isinstance(values[0], Parameter) and get_shape(node) == get_shape(node.all_input_nodes[0]):
        return values[0]
    item, shape = state.as_activation(values[0], "a reshape"), get_shape(node)
    return state.finish(reshape_labels(item.labels, item.shape, shape), shape, "a reshape")


@_rule("permute", "transpose", "t")
def _permute(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    rank = len(get_shape(node))
    order = list(range(rank))
    name = get_operator_name(node)
    if name == "permute":
        order = [axis % rank for axis in values[1]]
    elif rank > 1:
        one, two = (0, 1) if name == "t" else (values[1] % rank, values[2] % rank)
        order[one], order[two] = order[two], order[one]
    if isinstance(values[0], Parameter):
        return Parameter(values[0].name, values[0].shape, tuple(values[0].axes[axis] for axis in order))
    return state.finish(np.transpose(values[0].labels, order), get_shape(node), name)


@_rule("expand")
def _expand(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    shape = get_shape(node)
    if isinstance(values[0], Parameter) and shape[-len(values[0].axes) :] == get_shape(node.all_input_nodes[0]):
        return Parameter(values[0].name, values[0].shape, (-1,) * (len(shape) - len(values[0].axes)) + values[0].axes)
    item = state.as_activation(values[0], "expand")
    labels = item.labels.reshape((1,) * (len(shape) - item.labels.ndim) + item.labels.shape)
    return state.finish(labels, shape, "expand")


@_rule("slice")
def _slice(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape = state.as_activation(values[0], "a slice"), get_shape(node)
    axis = _get_argument(node, values, 1, "dim", 0) % len(shape)
    labels = item.labels
    if item.shape != shape:
        labels = state.atoms.merge_along(labels, axis, "a slice of channels by number")
    return state.finish(labels, shape, "a slice")


@_rule("select")
def _select(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item = state.as_activation(values[0], "select")
    axis = values[1] % len(item.shape)
    labels = state.atoms.merge_along(item.labels, axis, "the selection of one channel")
    return state.finish(np.squeeze(labels, axis), get_shape(node), "select")


@_rule("unbind")
def _unbind(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item = state.as_activation(values[0], "unbind")
    axis = _get_argument(node, values, 1, "dim", 0) % len(item.shape)
    labels = np.squeeze(state.atoms.merge_along(item.labels, axis, "the selection of one channel"), axis)
    return [state.finish(labels, get_shape(node), "unbind") for _ in node.meta["val"]]


@_rule("split", "split_with_sizes", "chunk")
def _split(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item = state.as_activation(values[0], "a split")
    axis = _get_argument(node, values, 2, "dim", 0) % len(item.shape)
    shapes = [tuple(int(size) for size in piece.shape) for piece in node.meta["val"]]
    labels = item.labels
    if labels.shape[axis] > 1 and len({shape[axis] for shape in shapes}) > 1:
        state.atoms.freeze(labels, "a split into unequal pieces")
        return make_fixed(node)
    if labels.shape[axis] > 1:
        # The pieces must stay equal in size, so they lose the same places.
        pieces = np.split(labels, len(shapes), axis)
        for piece in pieces[1:]:
            state.atoms.join(pieces[0], piece, "a split")
        labels = pieces[0]
    return [state.finish(labels, shape, "a split") for shape in shapes]


@_rule("cat", "stack")
def _concatenate(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    name, shape = get_operator_name(node), get_shape(node)
    inputs = [state.as_activation(item, name) for item in values[0]]
    inputs = [item for item in inputs if len(item.shape) == len(shape) or name == "stack"]
    axis = _get_argument(node, values, 1, "dim", 0) % len(shape)
    if name == "stack":
        labels = broadcast(state, inputs, inputs[0].shape, name)
        return state.finish(np.expand_dims(labels, axis), shape, name)
    if all(item.labels.shape[axis] == 1 for item in inputs):
        # Along the other axes, all must be cut alike.
        sliced = [Activation(item.labels, (*item.shape[:axis], 1, *item.shape[axis + 1 :])) for item in inputs]
        return state.finish(broadcast(state, sliced, sliced[0].shape, name), shape, name)
    if any(other != axis for item in inputs for other in get_varying_axes(item.labels)):
        for item in inputs:
            state.atoms.freeze(item.labels, "a concatenation along two axes")
        return make_fixed(node)
    sizes = [[size if place == axis else 1 for place, size in enumerate(item.shape)] for item in inputs]
    pieces = [np.broadcast_to(item.labels, size) for item, size in zip(inputs, sizes, strict=True)]
    return state.finish(np.concatenate(pieces, axis), shape, name)


@_rule("roll", "flip", "constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d")
def _move(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape, name = state.as_activation(values[0], "a shift"), get_shape(node), get_operator_name(node)
    if name == "roll":
        axes = [axis % len(shape) for axis in _get_argument(node, values, 2, "dims", [])] or range(len(shape))
    elif name == "flip":
        axes = [axis % len(shape) for axis in values[1]]
    else:
        axes = [axis for axis, size in enumerate(shape) if size != item.shape[axis]]
    labels = item.labels
    for axis in axes:
        reason = "a flip of channels" if name == "flip" else "zeros or shifts along the channels"
        labels = state.atoms.merge_along(labels, axis, reason)
    return state.finish(labels, shape, name)


@_rule("index")
def _index(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape = state.as_activation(values[0], "indexing"), get_shape(node)
    places = [axis for axis, index in enumerate(values[1]) if index is not None]
    if len(places) != 1 or item.labels.shape[places[0]] > 1:
        state.atoms.freeze(item.labels, "indexing of channels")
        return make_fixed(node)
    sizes = list(item.labels.shape)
    sizes[places[0] : places[0] + 1] = [1] * (len(shape) - len(sizes) + 1)
    return state.finish(item.labels.reshape(sizes), shape, "indexing")


@_rule("embedding")
def _embedding(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    table, shape = values[0], get_shape(node)
    if not isinstance(table, Parameter):
        state.atoms.freeze(state.as_activation(table, "embedding").labels, "an embedding whose table is computed")
        return make_fixed(node)
    state.atoms.freeze(state.get_axis(table, 0), "rows of a table")
    return state.finish(state.get_axis(table, 1).reshape([1] * (len(shape) - 1) + [-1]), shape, "embedding")
