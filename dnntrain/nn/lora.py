"""Linear layers with a low-rank adapter (Hu et al., "LoRA: low-rank adaptation of large language models", 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dnntrain.nn.shape import get_storage_key


class LoraLinear(nn.Linear):
    """y = x Wᵀ + b + s (x Dᵀ) Uᵀ: a linear layer whose change of weight is the product s U D.

    weight, bias  W [outputs, inputs] and b of the plain layer, under their own names
    lora_down     D [rank, inputs], uniform within ±1 / sqrt(inputs)
    lora_up       U [outputs, rank], zeros: at first the layer computes what the plain one does
    lora_scale    s
    """

    #: Parameters that no file of the plain network has.
    added_parameters: ClassVar[tuple[str, ...]] = ("lora_down", "lora_up")

    lora_down: nn.Parameter
    lora_up: nn.Parameter
    lora_scale: float

    def forward(self, input: Tensor) -> Tensor:
        change = linear(linear(input, self.lora_down), self.lora_up)
        return super().forward(input) + self.lora_scale * change

    def initialize_own_parameters(self) -> None:
        """Initialize the adapter alone."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.lora_down, -bound, bound)
        nn.init.zeros_(self.lora_up)


def find_adaptable_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear layers that can have an adapter.

    Others share their weight with another module, or their weight is read by an attention module that
    does not call them.
    """
    uses: dict[tuple[int, int, tuple[int, ...]], int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            key = get_storage_key(parameter)
            uses[key] = uses.get(key, 0) + 1
    attentions = tuple(f"{name}." for name, module in model.named_modules() if _reads_inner_weights(module))
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and uses[get_storage_key(module.weight)] == 1
        and not (attentions and name.startswith(attentions))
    ]


def _reads_inner_weights(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention)


def insert_adapter(layer: nn.Module, rank: int, scale: float) -> None:
    """Give a plain linear layer an adapter in place. Its weight and its hooks stay."""
    assert type(layer) is nn.Linear
    layer.__class__ = LoraLinear
    assert isinstance(layer, LoraLinear)
    layer.lora_down = nn.Parameter(layer.weight.new_zeros(rank, layer.in_features))
    layer.lora_up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
    layer.lora_scale = scale


def merge_adapters(model: nn.Module) -> nn.Module:
    """Add each adapter to the weight of its layer in place, W + s U D, and return `model` with plain layers."""
    for _, layer in list(iterate_adapted_layers(model)):
        with torch.no_grad():
            change = layer.lora_up.double() @ layer.lora_down.double()
            layer.weight.copy_(layer.weight.double() + layer.lora_scale * change)
        del layer.lora_down, layer.lora_up, layer.lora_scale
        layer.__class__ = nn.Linear  # type: ignore[assignment]
    return model


def iterate_adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the layers with an adapter and their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module
