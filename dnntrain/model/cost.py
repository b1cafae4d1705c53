"""What a model costs, counted on the meta device: parameters, floating-point operations, memory kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.model.shape import ModelShape


def parameter_count(model: nn.Module) -> int:
    """Numbers in the model's trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops_per_example(model: nn.Module, shape: ModelShape) -> float:
    """Floating-point operations of the forward pass of one image: a multiply-add counts as two.

    Matrix products, convolutions and attention are counted, the rest is small (torch.utils.flop_counter). The backward pass takes about
    twice as many. `model` is on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(_images(shape, _EXAMPLES))
    return counter.get_total_flops() / _EXAMPLES


def activation_bytes(model: nn.Module, shape: ModelShape, batch: int, bytes_per_element: int) -> int:
    """Bytes that the forward pass of `batch` images keeps for the backward pass. `model` is on the meta device.

    Tensors saved for the backward pass are counted once each by storage, parameters not at all; floating-point ones with
    `bytes_per_element` for each number (2 where autocast is on), others (indices, masks) as they are.
    """
    kept: dict[int, tuple[Tensor, int]] = {}
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            size = storage.nbytes()
            if tensor.is_floating_point():
                size = size // tensor.element_size() * bytes_per_element
            # The tensor is held, so that its storage's address stays its own.
            kept[storage._cdata] = (tensor, size)
        return tensor

    unpack: Callable[[Any], Any] = lambda tensor: tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, unpack):
        model(_images(shape, batch))
    return sum(size for _, size in kept.values())


#: Batch normalisation refuses to train on a single number per channel, so two images are counted.
_EXAMPLES = 2


def _images(shape: ModelShape, batch: int) -> Tensor:
    return torch.empty(batch, shape.channels, shape.height, shape.width, device="meta")
