"""Choose the method that makes the maps of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.explain.attention_rollout import find_rollout
from dnntrain.explain.class_activation import (
    ClassActivation,
    FusedActivation,
    choose_fused_layers,
    choose_layer,
    list_image_layers,
)
from dnntrain.explain.integrated_gradients import IntegratedGradients
from dnntrain.explain.method import MapMethod
from dnntrain.explain.occlusion import make_occlusion


def choose_method(name: str, model: nn.Module, inputs: Tensor, has_gradients: bool, layer: str | None) -> MapMethod:
    """Return the method `name`; auto: attention rollout, else LayerCAM, else occlusion.

    `inputs` are one image; `layer` is the layer of an activation map, otherwise the last one of at
    least 4x4 places. Raises ConfigError, which names the nearest method that works, if the network
    does not support the method.
    """
    if name == "gradient":
        raise ConfigError(
            "--method gradient attributes an answer to tokens; the model reads images",
            "use --method integrated_gradients",
        )
    height, width = inputs.shape[2:]
    occlusion = make_occlusion(height, width)
    if name == "occlusion" or (name == "auto" and not has_gradients):
        return occlusion
    if name == "integrated_gradients":
        return IntegratedGradients((height, width))
    rollout = find_rollout(model, inputs) if name in ("auto", "rollout") else None
    if rollout is not None and layer is None:
        return rollout
    grids = list_image_layers(model, inputs)
    if name == "rollout":
        near = "layercam" if grids else "occlusion"
        raise ConfigError(
            "--method rollout: the network has no attention of one class token or of patches over the whole image",
            f"use --method {near}",
        )
    chosen = layer or choose_layer(grids)
    if layer is not None and layer not in grids:
        raise ConfigError(
            f"--layer {layer} must be a layer whose output has rows and columns",
            f"as in --layer {choose_layer(grids)}" if grids else "the network has none; use --method occlusion",
        )
    if chosen is None:
        if name == "auto":
            return occlusion
        raise ConfigError(
            f"--method {name}: the network has no layer whose output has rows and columns", "use --method occlusion"
        )
    if name == "fused_layercam":
        layers = choose_fused_layers(grids, chosen)
        return FusedActivation(layers, grids[layers[-1]])
    return ClassActivation(chosen, grids[chosen], "gradcam" if name == "gradcam" else "layercam")


def get_device(model: nn.Module) -> torch.device:
    """Return the device of the weights; the processor without weights."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
