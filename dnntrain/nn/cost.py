"""Measure the parameters, FLOPs and activation memory of a model.

The model runs on two images on the CPU with weights of zero. The meta device would need no
arithmetic, but its first operation imports torch's compiler, which takes as long as importing
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.nn.flop_counter import FlopCounter, ZeroFill
from dnntrain.nn.init import keyed_generator
from dnntrain.nn.partition import get_sections
from dnntrain.nn.shape import ModelShape
from dnntrain.utils.dtensor import local_shard

#: Batch normalization cannot train on a single number per channel, so two images are counted.
_EXAMPLES = 2

#: Memory of a forward pass without gradients (input and output of a layer) / largest activation.
#: Measured.
FORWARD_WORK = 1.7


def build_with_zero_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """Build the model with zeros instead of random weights, which is quicker."""
    with ZeroFill(), keyed_generator(0):
        return build()


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def compute_zero_outputs(model: nn.Module, shape: ModelShape) -> object:
    """Return the outputs of the model for images of zeros."""
    with one_thread(), torch.no_grad(), keyed_generator(0):
        return model(_make_zero_images(model, shape, _EXAMPLES))


def count_forward_cost(model: nn.Module, shape: ModelShape) -> tuple[float, int]:
    """Return (FLOPs of one example's forward pass, number of operators counted, at least 1).

    A multiply-add counts as two operations. Linear layers, convolutions, matrix products and
    attention are counted; the rest is small. The backward pass takes about twice as many.
    """
    with one_thread(), torch.no_grad(), keyed_generator(0), FlopCounter() as counter:
        model(_make_zero_images(model, shape, _EXAMPLES))
    return float(counter.flops) / _EXAMPLES, max(1, counter.operators)


def measure_train_flops_factor(model: nn.Module, shape: ModelShape) -> float:
    """Return FLOPs of forward and backward pass / FLOPs of the forward pass.

    The backward pass takes one product as large as the forward one for each operand that needs a
    gradient. Of frozen layers before the first trained one it takes none.
    """
    with one_thread(), keyed_generator(0), FlopCounter() as counter:
        model(_make_zero_images(model, shape, _EXAMPLES))
    return 1.0 + float(counter.backward_flops) / max(float(counter.flops), 1.0)


@contextmanager
def record_batch_norm_values(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list that gets the numbers per channel of one example in each batch normalization.

    The list is filled by a forward pass of `count_forward_cost`.
    """
    values: list[int] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values.append(inputs[0].numel() // (_EXAMPLES * inputs[0].shape[1]))

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    handles = [module.register_forward_pre_hook(record) for module in norms]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def count_section_flops(model: nn.Module, shape: ModelShape) -> tuple[float, ...]:
    """Return the FLOPs of one image's forward pass in each section of the model.

    The result is empty if it has no sections.
    """
    costs = []
    features = _make_zero_images(model, shape, _EXAMPLES)
    with one_thread(), torch.no_grad(), keyed_generator(0):
        for section in get_sections(model):
            with FlopCounter() as counter:
                features = section.apply(features)
            costs.append(float(counter.flops) / _EXAMPLES)
    return tuple(costs)


def measure_activation_bytes(model: nn.Module, shape: ModelShape, batch: int, bytes_per_element: int) -> int:
    """Return the bytes that a forward pass keeps for the backward pass.

    For `batch` images; see `measure_kept_bytes`.
    """
    return sum(measure_kept_bytes(model, shape, bytes_per_element)) * batch // _EXAMPLES


def measure_largest_activation(model: nn.Module, shape: ModelShape, batch: int, bytes_per_element: int) -> int:
    """Return the bytes of the largest tensor that a forward pass keeps.

    For `batch` images; see `measure_kept_bytes`.
    """
    return max(measure_kept_bytes(model, shape, bytes_per_element), default=0) * batch // _EXAMPLES


def estimate_forward_bytes(model: nn.Module, shape: ModelShape, bytes_per_element: int) -> float:
    """Return the bytes of one image's forward pass without gradients.

    They are `FORWARD_WORK` times the largest activation.
    """
    grad_flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(True)  # only tensors that a gradient needs are seen
    try:
        return FORWARD_WORK * measure_largest_activation(model, shape, 1, bytes_per_element)
    finally:
        for parameter, requires_grad in grad_flags:
            parameter.requires_grad_(requires_grad)


def measure_kept_bytes(model: nn.Module, shape: ModelShape, bytes_per_element: int) -> list[int]:
    """Return the sizes of the tensors that a forward pass of two images keeps.

    They are kept for the backward pass. Each storage counts once, parameters not at all.
    Floating-point numbers take `bytes_per_element` (2 under autocast), others their own size.
    """
    with one_thread(), keyed_generator(0), _record_kept_sizes(model, bytes_per_element) as sizes:
        model(_make_zero_images(model, shape, _EXAMPLES))
    return sizes


@contextmanager
def _record_kept_sizes(model: nn.Module, bytes_per_element: int) -> Iterator[list[int]]:
    """Yield a list that gets the sizes of kept tensors at the end.

    See `measure_kept_bytes`. Of a sharded layer only the local shard counts.
    """
    kept_tensors: dict[int, tuple[Tensor, int]] = {}
    parameters = {local_shard(parameter).untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = local_shard(tensor).untyped_storage()
        if storage._cdata not in parameters:
            elements = storage.nbytes() // tensor.element_size()
            size = elements * (bytes_per_element if tensor.is_floating_point() else tensor.element_size())
            # The tensor is kept alive, so that no later storage gets the same address.
            kept_tensors[storage._cdata] = (tensor, size)
        return tensor

    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes
    sizes += [size for _, size in kept_tensors.values()]


class LayerSizes(NamedTuple):
    """Bytes of layers and sections for one example.

    Inputs of the named layers (0 without a gradient), their outputs, and the outputs of each
    section.
    """

    inputs: dict[str, int]
    outputs: dict[str, int]
    boundaries: list[int]


def measure_layer_sizes(
    model: nn.Module, shape: ModelShape, names: Sequence[str], autocast: torch.dtype | None
) -> LayerSizes:
    """Measure layers in a forward pass under `autocast`.

    bfloat16 represents either half-precision format.
    """
    sizes = LayerSizes({}, {}, [])
    bytes_per_element = 2 if autocast else 4

    def make_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sizes.inputs[name] = inputs[0].nbytes // _EXAMPLES if inputs[0].requires_grad else 0
            sizes.outputs[name] = output.numel() * bytes_per_element // _EXAMPLES

        return hook

    handles = [model.get_submodule(name).register_forward_hook(make_hook(name)) for name in names]
    with one_thread(), keyed_generator(0), torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
        features = _make_zero_images(model, shape, _EXAMPLES)
        for apply in _get_section_functions(model):
            features = apply(features)
            sizes.boundaries.append(features.nbytes // _EXAMPLES)
    for handle in handles:
        handle.remove()
    return sizes


def measure_kept_by_section(model: nn.Module, shape: ModelShape, bytes_per_element: int) -> list[list[int]]:
    """Return `measure_kept_bytes` of each section of the model for one image.

    A model without sections counts as one.
    """
    sizes_by_section = []
    features = _make_zero_images(model, shape, _EXAMPLES)
    with one_thread(), keyed_generator(0):
        for apply in _get_section_functions(model):
            with _record_kept_sizes(model, bytes_per_element) as sizes:
                features = apply(features)
            sizes_by_section.append([size // _EXAMPLES for size in sizes])
    return sizes_by_section


def _get_section_functions(model: nn.Module) -> Sequence[Callable[[Tensor], Tensor]]:
    return [section.apply for section in get_sections(model)] or [model]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread.

    Two images are too little work for several threads, which wait long for each other on a busy
    machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make_zero_images(model: nn.Module, shape: ModelShape, batch: int) -> Tensor:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return shape.make_zeros(batch, device)
