"""What a model costs: parameters, floating-point operations, memory kept for the backward pass.

Counted by running the model on two images on the CPU, with weights of zero: the meta device would need no arithmetic,
but its first operation imports torch's compiler, which takes as long as importing torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dnntrain.nn.init import keyed_generator
from dnntrain.nn.partition import sections
from dnntrain.nn.shape import ModelShape
from dnntrain.utils.dtensor import local

#: Batch normalisation refuses to train on a single number per channel, so two images are counted.
_EXAMPLES = 2

#: Tensors of the size of the largest activation that a forward pass alone holds: a layer's input and output. Measured.
FORWARD_WORK = 1.7


def unfilled(build: Callable[[], nn.Module]) -> nn.Module:
    """The model that `build` makes, with zeros instead of random weights, which is quicker."""
    with _Unfilled(), keyed_generator(0):
        return build()


def parameter_count(model: nn.Module) -> int:
    """Numbers in the model's trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops_per_example(model: nn.Module, shape: ModelShape) -> float:
    """Floating-point operations of the forward pass of one image: a multiply-add counts as two.

    Linear layers, convolutions, matrix products and attention are counted; the rest is small. The backward pass takes
    about twice as many.
    """
    with one_thread(), torch.no_grad(), keyed_generator(0), _Counted() as counted:
        model(_images(model, shape, _EXAMPLES))
    return float(counted.flops) / _EXAMPLES


def section_flops(model: nn.Module, shape: ModelShape) -> tuple[float, ...]:
    """Floating-point operations of the forward pass of one image in each of the model's sections; empty where it states none."""
    costs = []
    features = _images(model, shape, _EXAMPLES)
    with one_thread(), torch.no_grad(), keyed_generator(0):
        for section in sections(model):
            with _Counted() as counted:
                features = section.apply(features)
            costs.append(float(counted.flops) / _EXAMPLES)
    return tuple(costs)


def activation_bytes(model: nn.Module, shape: ModelShape, batch: int, bytes_per_element: int) -> int:
    """Bytes that the forward pass of `batch` images keeps for the backward pass; see `kept_bytes`."""
    return sum(kept_bytes(model, shape, bytes_per_element)) * batch // _EXAMPLES


def largest_activation_bytes(model: nn.Module, shape: ModelShape, batch: int, bytes_per_element: int) -> int:
    """Bytes of the largest tensor among those; see `kept_bytes`."""
    return max(kept_bytes(model, shape, bytes_per_element), default=0) * batch // _EXAMPLES


def forward_bytes(model: nn.Module, shape: ModelShape, bytes_per_element: int) -> float:
    """Bytes that a forward pass alone of one image holds: `FORWARD_WORK` of the model's largest activation."""
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(True)  # only what a gradient needs is seen
    try:
        return FORWARD_WORK * largest_activation_bytes(model, shape, 1, bytes_per_element)
    finally:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


def kept_bytes(model: nn.Module, shape: ModelShape, bytes_per_element: int) -> list[int]:
    """Sizes of the tensors that the forward pass of two images keeps for the backward pass.

    Each storage counts once, parameters not at all; floating-point numbers take `bytes_per_element` (2 under autocast),
    others what they take. Counted on two images and scaled.
    """
    with one_thread(), keyed_generator(0), _kept(model, bytes_per_element) as kept:
        model(_images(model, shape, _EXAMPLES))
    return kept


@contextmanager
def _kept(model: nn.Module, bytes_per_element: int) -> Iterator[list[int]]:
    """A list that is filled at the end, with what forward passes keep; see `kept_bytes`. Of a layer in parts, the part that is here."""
    kept: dict[int, tuple[Tensor, int]] = {}
    parameters = {local(parameter).untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = local(tensor).untyped_storage()
        if storage._cdata not in parameters:
            elements = storage.nbytes() // tensor.element_size()
            size = elements * (bytes_per_element if tensor.is_floating_point() else tensor.element_size())
            # The tensor is held, so that no later storage gets the same address.
            kept[storage._cdata] = (tensor, size)
        return tensor

    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes
    sizes += [size for _, size in kept.values()]


class LayerSizes(NamedTuple):
    """Bytes for one example: what named layers take (0 where no gradient goes back) and give, and the outputs of each section."""

    inputs: dict[str, int]
    outputs: dict[str, int]
    boundaries: list[int]


def layer_sizes(model: nn.Module, shape: ModelShape, names: Sequence[str], autocast: torch.dtype | None) -> LayerSizes:
    """Sizes of a forward pass in the number format that it has under `autocast` (bfloat16 stands for either half)."""
    found = LayerSizes({}, {}, [])
    half = 2 if autocast else 4

    def seen(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.inputs[name] = inputs[0].nbytes // _EXAMPLES if inputs[0].requires_grad else 0
            found.outputs[name] = output.numel() * half // _EXAMPLES

        return hook

    handles = [model.get_submodule(name).register_forward_hook(seen(name)) for name in names]
    with one_thread(), keyed_generator(0), torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
        features = _images(model, shape, _EXAMPLES)
        for apply in _parts_of(model):
            features = apply(features)
            found.boundaries.append(features.nbytes // _EXAMPLES)
    for handle in handles:
        handle.remove()
    return found


def kept_by_section(model: nn.Module, shape: ModelShape, bytes_per_element: int) -> list[list[int]]:
    """`kept_bytes` of each of the model's sections, for one image; of the whole model where it states none."""
    found = []
    features = _images(model, shape, _EXAMPLES)
    with one_thread(), keyed_generator(0):
        for apply in _parts_of(model):
            with _kept(model, bytes_per_element) as kept:
                features = apply(features)
            found.append([size // _EXAMPLES for size in kept])
    return found


def _parts_of(model: nn.Module) -> Sequence[Callable[[Tensor], Tensor]]:
    return [section.apply for section in sections(model)] or [model]


@contextmanager
def one_thread() -> Iterator[None]:
    """Two images are too little for several threads, which wait long for each other where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _images(model: nn.Module, shape: ModelShape, batch: int) -> Tensor:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.zeros(batch, shape.channels, shape.height, shape.width, device=device)


class _Unfilled(TorchFunctionMode):
    """Fills with zeros where a tensor would get random numbers: zeros end the loop of a truncated distribution too."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _FILLING:
            tensor: Tensor = args[0] if args else (kwargs or {})["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **(kwargs or {}))


class _Counted(TorchFunctionMode):
    """Sums the operations of the functions in `_FLOPS`, from their inputs and their result."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _FLOPS:
            self.flops += _FLOPS[func](result, *args, **kwargs)
        return result


def _linear(result: Tensor, images: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * result.numel() * weight.shape[1]


def _convolution(result: Tensor, images: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Each output is a product over the weight's [in / groups, kernel …]."""
    return 2 * result.numel() * math.prod(weight.shape[1:])


def _transposed_convolution(result: Tensor, images: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Each input is spread over the weight's [out / groups, kernel …]."""
    return 2 * images.numel() * math.prod(weight.shape[1:])


def _product(result: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return 2 * result.numel() * left.shape[-1]


def _added_product(result: Tensor, added: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return 2 * result.numel() * left.shape[-1]


def _einsum(result: Tensor, equation: Any, *operands: Any, **_: Any) -> int:
    """One multiply-add for each number of the result and each combination of the indices that are summed over."""
    if not isinstance(equation, str):
        return 0
    tensors = operands[0] if isinstance(operands[0], list | tuple) else operands
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(inputs.split(","), tensors, strict=True):
        left, _dots, right = term.partition("...")
        sizes.update(zip(left, tensor.shape, strict=False))
        sizes.update(zip(reversed(right), reversed(tensor.shape), strict=False))
    summed = [letter for letter in sizes if (letter not in output if arrow else inputs.count(letter) > 1)]
    return 2 * int(result.numel()) * math.prod(sizes[letter] for letter in summed)


def _attention(result: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """query @ key^T and weights @ value: [.., queries, width] and [.., keys, width]."""
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * pairs * (query.shape[-1] + value.shape[-1])


def _multi_head(result: Any, query: Tensor, key: Tensor, value: Tensor, width: int, *_: Any, **__: Any) -> int:
    """Four projections of [length, batch, width], and the attention between."""
    queries, keys = math.prod(query.shape[:-1]), math.prod(key.shape[:-1])
    projections = 4 * width * width * (queries + keys)
    return projections + 4 * queries * key.shape[0] * width


_FLOPS: dict[Any, Callable[..., int]] = {
    functional.linear: _linear,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm), _product
    ),
    **dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), _added_product),
    torch.einsum: _einsum,
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _multi_head,
}

_FILLING = frozenset(
    {
        *(getattr(Tensor, name) for name in ("uniform_", "normal_", "random_", "bernoulli_", "exponential_")),
        *(getattr(nn.init, name) for name in ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_")),
    }
)
