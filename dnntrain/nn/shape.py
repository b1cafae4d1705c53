"""Describe the shape of a model: number of outputs and size of one input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.protocols import Column, ModelSpec

#: Names of the last layer in models of torchvision and of users, and in the models of this package.
_HEAD_NAMES = ("head", "fc", "classifier", "heads")


@dataclass(frozen=True)
class ModelShape:
    """`num_classes` outputs for images of [channels, height, width], for rows of `columns`, or for a text.

    A row counts as an image of 1×1 pixels with a channel for each column, a text as one with a channel
    for each token. If `is_map`, each pixel of an image has its outputs.

    vocabulary  number of tokens of a text; 0 for other inputs
    separator   the token that begins a document, if a token sees its own document only
    per_token   whether there are `num_classes` outputs for each token
    """

    num_classes: int
    channels: int
    height: int = 1
    width: int = 1
    columns: tuple[Column, ...] = ()
    is_map: bool = False
    vocabulary: int = 0
    separator: int | None = None
    per_token: bool = False

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> ModelShape:
        """Return the shape of a model for such inputs and outputs."""
        channels, height, width = (*spec.inputs.shape, 1, 1)[:3]
        is_map = len(spec.output.shape) == 3
        shape = cls(spec.output.size, channels, height, width, spec.inputs.columns, is_map)
        if (vocabulary := spec.inputs.vocabulary) is None:
            return shape
        separator = vocabulary.separator if spec.inputs.isolates_documents else None
        return replace(shape, vocabulary=vocabulary.size, separator=separator, per_token=len(spec.output.shape) > 1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: (channels, height, width), (columns,) or (tokens,)."""
        return (self.channels,) if self.columns or self.vocabulary else (self.channels, self.height, self.width)

    def make_zeros(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return `count` inputs of zeros."""
        dtype = torch.int64 if self.vocabulary else torch.float32
        return torch.zeros(count, *self.input_shape, dtype=dtype, device=device)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the outputs for one input: (classes,), or (classes, height, width)."""
        return (self.num_classes, self.height, self.width) if self.is_map else (self.num_classes,)

    @property
    def num_inputs(self) -> int:
        """Numbers in one input."""
        return self.channels * self.height * self.width

    def check_min_size(self, model: str, min_size: int) -> None:
        """Raise ConfigError if an image is smaller than `min_size` by `min_size` pixels."""
        if min(self.height, self.width) < min_size:
            raise ConfigError(
                f"model={model} needs images of at least {min_size}x{min_size} pixels; "
                f"these have {self.height}x{self.width}",
                "choose model=mlp, which takes any size, or data with larger images",
            )


def find_head_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that map features to classes.

    For example `("head",)`, `("fc",)` or `("classifier.3",)`. timm declares them
    (`pretrained_cfg["classifier"]`). Else it is the last layer with weights in the attribute
    `head`, `fc`, `classifier` or `heads`; else the last linear layer of the model. Empty if there
    is none.
    """
    modules = dict(model.named_modules())
    config = getattr(model, "pretrained_cfg", None) or {}
    declared_head = config.get("classifier") if isinstance(config, dict) else None
    if declared_head:
        names = (declared_head,) if isinstance(declared_head, str) else tuple(declared_head)
        return tuple(name for name in names if name in modules)
    for name in _HEAD_NAMES:
        if name in modules and (layer_name := _find_last_layer(name, modules[name])):
            return (layer_name,)
    return tuple([name for name, module in modules.items() if isinstance(module, nn.Linear)][-1:])


def find_head_parameters(model: nn.Module) -> tuple[str, ...]:
    """Return the parameter names of the head: `("head.weight", "head.bias")`."""
    prefixes = tuple(f"{name}." for name in find_head_modules(model))
    return tuple(name for name, _ in model.named_parameters() if name.startswith(prefixes)) if prefixes else ()


def _find_last_layer(name: str, module: nn.Module) -> str | None:
    """Return the name of the last linear or convolutional layer within `module`, itself included."""
    layers = [inner_name for inner_name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        return None
    return f"{name}.{layers[-1]}" if layers[-1] else name


def get_storage_key(tensor: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Return the storage, offset and shape of a tensor: a key of its memory."""
    return int(tensor.untyped_storage()._cdata), int(tensor.storage_offset()), tuple(tensor.shape)
