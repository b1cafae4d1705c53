"""What the data ask of a model: its number of classes and the size of one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dnntrain.errors import ConfigError

#: Where torchvision and hand-written models keep their last layer, and where the models of this package do.
_HEADS = ("head", "fc", "classifier", "heads")


@dataclass(frozen=True)
class ModelShape:
    """`num_classes` outputs for images of [channels, height, width]."""

    num_classes: int
    channels: int
    height: int
    width: int

    @property
    def inputs(self) -> int:
        """Numbers in one image."""
        return self.channels * self.height * self.width

    def require(self, model: str, size: int) -> None:
        """Raises ConfigError where an image is smaller than `size` by `size` pixels."""
        if min(self.height, self.width) < size:
            raise ConfigError(
                f"model={model} needs images of at least {size}x{size} pixels; these have {self.height}x{self.width}",
                "choose model=mlp, which takes any size, or data with larger images",
            )


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that turn features into classes: `("head",)`, `("fc",)`, `("classifier.3",)` …

    timm names them itself (`pretrained_cfg["classifier"]`); else the attribute `head`, `fc`, `classifier` or `heads` is
    looked for, and in it the last layer with weights; else the last linear layer of the model. Empty where none is.
    """
    named = dict(model.named_modules())
    config = getattr(model, "pretrained_cfg", None) or {}
    declared = config.get("classifier") if isinstance(config, dict) else None
    if declared:
        names = (declared,) if isinstance(declared, str) else tuple(declared)
        return tuple(name for name in names if name in named)
    for name in _HEADS:
        if name in named and (found := _last_layer(name, named[name])):
            return (found,)
    return tuple([name for name, module in named.items() if isinstance(module, nn.Linear)][-1:])


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of the final classifier: `("head.weight", "head.bias")`."""
    prefixes = tuple(f"{name}." for name in head_modules(model))
    return tuple(name for name, _ in model.named_parameters() if name.startswith(prefixes)) if prefixes else ()


def _last_layer(name: str, module: nn.Module) -> str | None:
    """The name of the last linear or convolutional layer within `module`, itself included."""
    layers = [inner for inner, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        return None
    return f"{name}.{layers[-1]}" if layers[-1] else name


def place(tensor: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """What two tensors that share their memory and shape have in common: their storage, offset and shape."""
    return int(tensor.untyped_storage()._cdata), int(tensor.storage_offset()), tuple(tensor.shape)
