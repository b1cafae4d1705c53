"""The widths of a cut network: plain data from which it is rebuilt.

A network is built by name at its full width, and then made smaller: parameters and buffers get
other shapes, and the numbers in its modules that depend on them follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from dnntrain.errors import CheckpointError
from dnntrain.pruning.head_attention import replace_attention

#: Numbers of a module that may follow its widths: heads, and widths of attention.
HEAD_ATTRIBUTES = ("num_heads", "heads", "n_heads", "nhead", "n_head", "num_attention_heads", "parallel_units")
WIDTH_ATTRIBUTES = ("attn_dim", "inner_dim", "all_head_size", "attention_dim", "hidden_features", "hidden_dim")


@dataclass(frozen=True)
class Widths:
    """The shapes of a cut network.

    shapes      sizes of each parameter and buffer that is cut; 0: as the network is built
    attributes  numbers of modules that follow: module → attribute → value
    dropped     modules that are replaced by the identity
    cuts        cuts of this run so far
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    cuts: int = 0

    @property
    def is_whole(self) -> bool:
        """Return whether the network has its full width."""
        return not (self.shapes or self.dropped)

    def as_json(self) -> dict[str, Any]:
        """Return the widths in plain JSON values."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "attributes": {name: dict(values) for name, values in self.attributes.items()},
            "dropped": list(self.dropped),
            "cuts": self.cuts,
        }


def decode_widths(value: Any, source: str) -> Widths:
    """Return the widths in JSON values. Raises CheckpointError, which names `source`, if they are damaged."""
    try:
        shapes = {str(name): tuple(_check_count(size, 0) for size in shape) for name, shape in value["shapes"].items()}
        attributes = {
            str(name): {str(key): _check_count(number) for key, number in values.items()}
            for name, values in value["attributes"].items()
        }
        for values in attributes.values():
            if unknown := set(values) - {*HEAD_ATTRIBUTES, *WIDTH_ATTRIBUTES}:
                raise ValueError(f"{min(unknown)} is not a width")
        dropped = tuple(str(name) for name in value["dropped"])
        return Widths(shapes, attributes, dropped, int(value["cuts"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source}: the widths of the pruned network are damaged ({error})") from None


def _check_count(value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"a width must be a whole number of at least {least}, not {value!r:.40}")
    return value


def apply_widths(model: nn.Module, widths: Widths) -> nn.Module:
    """Make `model`, at full width, as small as `widths` say, in place; keep the first channels.

    Raises CheckpointError if the widths are of another network.
    """
    for name in widths.dropped:
        _check_module(model, name)
        _set_module(model, name, nn.Identity())
    for name, shape in widths.shapes.items():
        _shrink(model, name, shape)
    for name, values in widths.attributes.items():
        module = _check_module(model, name)
        for key, value in values.items():
            if not isinstance(vars(module).get(key), int) or value > vars(module)[key]:
                raise CheckpointError(f"the pruned network has {name}.{key}={value}, which does not fit this model")
            setattr(module, key, value)
    model = _follow_shapes(model, widths)
    fresh = vars(model).get("fresh")
    if fresh is not None and not widths.is_whole:
        # A library's initialization comes from a new model, which must be as small.
        model.fresh = partial(_build_fresh, fresh, widths)  # type: ignore[assignment]
    if not widths.is_whole and "timm_architecture" in vars(model):
        model.timm_architecture = None  # type: ignore[assignment]  # timm cannot build these widths
    if not widths.is_whole:
        model.pruned_widths = widths  # type: ignore[assignment]  # written into config.json with the weights
    return model


def get_widths(model: nn.Module) -> Widths:
    """Return the widths that a network was cut to; those of a whole one if it was not."""
    widths = vars(model).get("pruned_widths")
    return widths if isinstance(widths, Widths) else Widths()


def _build_fresh(fresh: Any, widths: Widths) -> nn.Module:
    return apply_widths(fresh(), widths)


def _check_module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise CheckpointError(f"the pruned network has a module {name:.80}, which this model does not have") from None


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _shrink(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    parent, _, leaf = name.rpartition(".")
    module = _check_module(model, parent)
    tensor = module._parameters.get(leaf, module._buffers.get(leaf))
    if tensor is None or len(shape) != tensor.ndim or any(map(int.__gt__, shape, tensor.shape)):
        raise CheckpointError(f"the pruned network has {name:.80} of {list(shape)}, which does not fit this model")
    set_tensor(module, leaf, tensor.detach()[tuple(slice(size or None) for size in shape)].clone())


def set_tensor(module: nn.Module, leaf: str, value: Tensor) -> None:
    """Give a parameter or buffer another value, of any shape; a parameter stays the same object."""
    parameter = module._parameters.get(leaf)
    if parameter is not None:
        parameter.grad = None
        parameter.data = value
    else:
        module._buffers[leaf] = value


@torch.no_grad()
def _follow_shapes(model: nn.Module, widths: Widths) -> nn.Module:
    """Set the sizes that modules keep beside their parameters."""
    changed = {name.rpartition(".")[0] for name in widths.shapes}
    for name, module in list(model.named_modules()):
        if name in changed:
            follow_shape(module)
        if isinstance(module, nn.MultiheadAttention) and name in changed:
            _set_module(model, name, replace_attention(module))
    return model


def follow_shape(module: nn.Module) -> None:
    """Set the sizes that a layer keeps beside its weight."""
    if isinstance(module, _ConvNd):
        inputs, outputs = (0, 1) if module.transposed else (1, 0)
        if 1 < module.groups == module.in_channels:
            multiplier = module.out_channels // module.groups
            module.groups = module.weight.shape[0] // multiplier
        module.in_channels = module.weight.shape[inputs] * (1 if module.transposed else module.groups)
        module.out_channels = module.weight.shape[outputs]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_groups = module.num_groups * len(module.weight) // module.num_channels
        module.num_channels = len(module.weight)
    elif isinstance(module, _NormBase):
        tensor = module.weight if module.weight is not None else module.running_mean
        if tensor is not None:
            module.num_features = len(tensor)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
