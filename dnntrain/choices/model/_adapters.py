"""Build models from libraries and users' files, adapt them to the data, and try them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.nn.cost import one_thread
from dnntrain.nn.init import keyed_generator
from dnntrain.nn.shape import ModelShape
from dnntrain.utils.user_objects import describe_error


def build_and_check(make: Callable[[], nn.Module], shape: ModelShape, model_name: str) -> nn.Module:
    """Return the model `make()` after a forward pass of one image.

    The model is marked so that `initialize_weights` keeps the initialization of its constructor.
    Raises ConfigError, which calls the model `model_name`, if the constructor or the forward pass
    fails, or if the outputs are not [1, classes].
    """
    model = _call_constructor(make, model_name)
    _check_forward(model, shape, model_name)
    model.fresh = make  # type: ignore[assignment]
    return model


def import_library(name: str) -> Any:
    """Import a library that is needed only for its models; its types are not checked."""
    return import_module(name)


def adapt_input_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution if it does not take `channels` channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                replace_module(model, name, _make_input_layer(module, channels))
            return


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the inner module `name` by `module`."""
    parent, _, child_name = name.rpartition(".")
    setattr(model.get_submodule(parent), child_name, module)


def _make_input_layer(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    if layer.groups != 1:
        raise ConfigError(f"the first convolution has {layer.groups} groups and cannot take {channels} channels")
    return nn.Conv2d(
        channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )


def _call_constructor(make: Callable[[], nn.Module], model_name: str) -> nn.Module:
    try:
        model = make()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{model_name} cannot be built: {describe_error(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{model_name} is a {type(model).__name__}, not a torch.nn.Module")
    return model


def _check_forward(model: nn.Module, shape: ModelShape, model_name: str) -> None:
    """Run one image through the model in eval mode, except on the meta device."""
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return
    training = model.training
    model.eval()
    try:
        with one_thread(), torch.no_grad(), keyed_generator(0):
            outputs = model(shape.make_zeros(1))
    except Exception as error:
        raise ConfigError(
            f"{model_name} does not take images of {shape.channels}x{shape.height}x{shape.width}: "
            f"{describe_error(error)}",
            "many models need larger images or fixed sizes; resize the data, or choose another model",
        ) from error
    finally:
        model.train(training)
    if not isinstance(outputs, Tensor) or outputs.shape != (1, *shape.output_shape):
        output_text = (
            f"of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        )
        raise ConfigError(
            f"{model_name} must give {_describe_outputs(shape)} for one image, but gives {output_text}",
            "end it with a convolution to num_classes channels at the size of the image, and return that tensor alone"
            if shape.is_map
            else "end it with a linear layer of num_classes outputs, and return that tensor alone",
        )


def _describe_outputs(shape: ModelShape) -> str:
    if shape.is_map:
        return f"a map of {'x'.join(map(str, shape.output_shape))} outputs"
    return f"one row of {shape.num_classes} outputs"
