"""Rules of layers: convolutions, products, norms, pools, reductions and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dnntrain.pruning.labels import Labels, get_varying_axes
from dnntrain.pruning.operators import _get_argument, _rule, broadcast, get_operator_name, get_shape, make_fixed
from dnntrain.pruning.propagation import Activation, Parameter, Propagation

if TYPE_CHECKING:
    from torch.fx import Node


def _get_channels(state: Propagation, item: Activation, axis: int, reason: str) -> Labels:
    """Return the labels along one axis, [size]; those that vary along others are joined."""
    labels = item.labels
    for other in get_varying_axes(labels):
        if other != axis:
            labels = state.atoms.merge_along(labels, other, reason)
    return np.broadcast_to(labels.reshape(-1), item.shape[axis])


def _place(labels: Labels, axis: int, rank: int) -> Labels:
    return labels.reshape([-1 if place == axis else 1 for place in range(rank)])


@_rule("convolution", "_convolution")
def _convolution(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    inputs, weight, bias = values[:3]
    is_transposed, groups, shape = values[6], values[8], get_shape(node)
    inputs = state.as_activation(inputs, "a convolution")
    if not isinstance(weight, Parameter) or (is_transposed and groups > 1):
        reason = "a convolution whose weight is computed" if not is_transposed else "a grouped transposed convolution"
        for item in (inputs, state.as_activation(weight, reason)):
            state.atoms.freeze(item.labels, reason)
        if isinstance(bias, Parameter):
            state.atoms.freeze(state.get_axis(bias, 0), reason)
        return make_fixed(node)
    channels = _get_channels(state, inputs, 1, "a convolution")
    outputs = state.get_axis(weight, 1 if is_transposed else 0)
    weight_inputs = state.get_axis(weight, 0 if is_transposed else 1)
    join = state.atoms.join
    if groups == 1:
        join(channels, weight_inputs, "the input of a convolution")
    elif len(weight_inputs) == 1 and groups == len(channels):
        join(np.repeat(channels, len(outputs) // len(channels)), outputs, "a depthwise convolution")
    else:
        # Every group keeps as many channels, so all lose the same places.
        join(channels.reshape(groups, -1), weight_inputs[None], "a grouped convolution")
        rows = outputs.reshape(groups, -1)
        join(rows, rows[:1], "a grouped convolution")
    if isinstance(bias, Parameter):
        join(outputs, state.get_axis(bias, 0), "a bias")
    return state.finish(_place(outputs, 1, len(shape)), shape, "a single channel")


def _multiply(state: Propagation, node: Node, inputs: Any, weight: Any) -> Activation:
    """Return inputs [.., k] @ weight [k, n]."""
    shape = get_shape(node)
    if not isinstance(weight, Parameter):
        return _batch_product(state, inputs, weight, shape)
    item = state.as_activation(inputs, "a product")
    weight = Parameter(weight.name, weight.shape, tuple(axis for axis in weight.axes if axis >= 0))
    if len(weight.axes) != 2:
        return _batch_product(state, inputs, weight, shape)
    rows, columns = state.get_axis(weight, 0), state.get_axis(weight, 1)
    if any(axis != item.labels.ndim - 1 for axis in get_varying_axes(item.labels)):
        # A layer over tokens or pixels: its own axes stay, the channels pass through.
        for labels in (rows, columns):
            state.atoms.freeze(labels, "a linear layer along another axis than the channels")
        labels = state.atoms.merge_along(item.labels, item.labels.ndim - 1, "a product")
        return state.finish(labels, shape, "a product")
    state.atoms.join(_get_channels(state, item, item.labels.ndim - 1, "a product"), rows, "the input of a linear layer")
    return state.finish(_place(columns, len(shape) - 1, len(shape)), shape, "a single feature")


@_rule("mm", "matmul", "bmm")
def _product(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    return _multiply(state, node, values[0], values[1])


@_rule("addmm", "baddbmm")
def _added_product(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    product = _multiply(state, node, values[1], values[2])
    added = state.as_activation(values[0], "a bias")
    labels = broadcast(state, [added, product], product.shape, "a bias")
    return state.finish(labels, product.shape, "a bias")


@_rule("linear")
def _linear(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    weight = values[1]
    if isinstance(weight, Parameter):
        weight = Parameter(weight.name, weight.shape, tuple(reversed(weight.axes)))
    product = _multiply(state, node, values[0], weight)
    if len(values) < 3 or values[2] is None:
        return product
    added = state.as_activation(values[2], "a bias")
    return state.finish(broadcast(state, [added, product], product.shape, "a bias"), product.shape, "a bias")


def _batch_product(state: Propagation, left: Any, right: Any, shape: Sequence[int]) -> Activation:
    """Return the product of two activations: [.., m, k] @ [.., k, n].

    The places along k meet each other in one sum, so they are kept or removed as one.
    """
    one, two = state.as_activation(left, "a product"), state.as_activation(right, "a product")
    rows = state.atoms.merge_along(one.labels, one.labels.ndim - 1, "a product of two activations")
    columns = state.atoms.merge_along(two.labels, max(two.labels.ndim - 2, 0), "a product of two activations")
    items = [
        Activation(rows, (*one.shape[:-1], 1)),
        Activation(columns, (*two.shape[:-2], 1, *two.shape[-1:])),
    ]
    return state.finish(broadcast(state, items, shape, "a product of two activations"), shape, "a product")


@_rule(
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
def _attention(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    """Return softmax(query @ keyᵀ + mask) @ value: [.., heads, tokens, width]."""
    query, key, value = (state.as_activation(item, "attention") for item in values[:3])
    scores = (*query.shape[:-1], key.shape[-2])
    swapped = Activation(np.swapaxes(key.labels, -1, -2), (*key.shape[:-2], key.shape[-1], key.shape[-2]))
    weights = _batch_product(state, query, swapped, scores)
    mask = values[3] if len(values) > 3 and not isinstance(values[3], float | bool) else node.kwargs.get("attn_mask")
    if mask is not None:
        items = [weights, state.as_activation(mask, "attention")]
        weights = Activation(broadcast(state, items, scores, "a mask of attention"), scores)
    for axis in (-1, -2):
        weights = Activation(state.atoms.merge_along(weights.labels, axis, "attention over tokens"), scores)
    result = _batch_product(state, weights, value, get_shape(node))
    return [result, *make_fixed(node)[1:]] if isinstance(node.meta["val"], list | tuple) else result


@_rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm")
@_rule("batch_norm", "_batch_norm_with_update", "_batch_norm_no_update")
def _batch_norm(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape = state.as_activation(values[0], "batch norm"), get_shape(node)
    channels = _get_channels(state, item, 1, "batch norm")
    for parameter in values[1:5]:
        if isinstance(parameter, Parameter):
            state.atoms.join(channels, state.get_axis(parameter, 0), "a batch norm of fixed width")
    result = state.finish(_place(channels, 1, len(shape)), shape, "a single channel")
    return [result, *make_fixed(node)[1:]] if isinstance(node.meta["val"], list | tuple) else result


@_rule("native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape = state.as_activation(values[0], "layer norm"), get_shape(node)
    reason = "layer norm computes its statistics over these channels"
    labels = item.labels
    for axis in range(len(shape) - len(values[1]), len(shape)):
        labels = state.atoms.merge_along(labels, axis, reason)
    for parameter in values[2:4]:
        if isinstance(parameter, Parameter):
            for axis in range(len(parameter.shape)):
                state.atoms.freeze(state.get_axis(parameter, axis), reason)
    result = state.finish(labels, shape, reason)
    return [result, *make_fixed(node)[1:]] if isinstance(node.meta["val"], list | tuple) else result


@_rule("native_group_norm", "group_norm")
def _group_norm(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape = state.as_activation(values[0], "group norm"), get_shape(node)
    groups = values[6] if get_operator_name(node) == "native_group_norm" else values[1]
    parameters = values[1:3] if get_operator_name(node) == "native_group_norm" else values[2:4]
    reason = "group norm computes its statistics over these channels"
    channels = _get_channels(state, item, 1, reason)
    rows = channels.reshape(groups, -1)
    state.atoms.join(rows, rows[:, :1], reason)
    for parameter in parameters:
        if isinstance(parameter, Parameter):
            state.atoms.join(channels, state.get_axis(parameter, 0), reason)
    result = state.finish(_place(channels, 1, len(shape)), shape, reason)
    return [result, *make_fixed(node)[1:]] if isinstance(node.meta["val"], list | tuple) else result


@_rule(
    *[
        "max_pool2d_with_indices",
        "max_pool2d",
        "avg_pool2d",
        "_adaptive_avg_pool2d",
        "adaptive_avg_pool2d",
        "avg_pool1d",
    ]
)
@_rule(
    *[
        "adaptive_max_pool2d",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "upsample_bicubic2d",
        "_upsample_bicubic2d_aa",
    ]
)
def _spatial(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape, name = state.as_activation(values[0], "a pool"), get_shape(node), get_operator_name(node)
    axis = len(shape) - 3
    result = state.finish(_place(_get_channels(state, item, axis, name), axis, len(shape)), shape, name)
    return [result, *make_fixed(node)[1:]] if isinstance(node.meta["val"], list | tuple) else result


@_rule("mean", "sum", "amax", "amin", "var", "linalg_vector_norm")
def _reduce(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    name, shape = get_operator_name(node), get_shape(node)
    item = state.as_activation(values[0], name)
    place = 2 if name == "linalg_vector_norm" else 1
    axes = _get_argument(node, values, place, "dim", None)
    axes = [axes] if isinstance(axes, int) else list(axes or range(len(item.shape)))
    axes = [axis % len(item.shape) for axis in axes]
    labels = item.labels
    for axis in axes:
        labels = state.atoms.merge_along(labels, axis, f"a {name} over the channels")
    if len(shape) != len(item.shape):
        labels = np.squeeze(labels, tuple(axes))
    return state.finish(labels, shape, name)


@_rule("_softmax", "_log_softmax", "softmax")
def _softmax(state: Propagation, node: Node, values: Sequence[Any]) -> Any:
    item, shape = state.as_activation(values[0], "softmax"), get_shape(node)
    return state.finish(state.atoms.merge_along(item.labels, values[1] % len(shape), "softmax"), shape, "softmax")
