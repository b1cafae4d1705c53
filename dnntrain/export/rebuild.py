"""Rebuild a network from a saved configuration, with its trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.checkpoint.portable_model import without_pretrained_weights
from dnntrain.config.registry import load_registry
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights
from dnntrain.protocols import ModelSpec


def get_choice(config: Mapping[str, Any], group: str) -> str:
    """Return the choice whose options `config`[group] holds.

    It is the choice as typed, or the built-in one behind a preset of the user.
    """
    typed_name = str(config["choices"][group])
    return typed_name if typed_name in load_registry().get_choices(group) else str(config[group]["name"])


def has_name_option(group: str, choice: str) -> bool:
    """Return whether the choice has an option called `name`, besides its own name."""
    return "name" in load_registry().get_choice(group, choice).schema.fields


def build_network(model: Any, norm: Any, folder: Path, spec: ModelSpec) -> nn.Module:
    """Build the network of the choices `model` and `norm` with the weights of `folder`, on the CPU.

    The weights are in model.safetensors. Raises CheckpointError if the file is damaged or of
    another network.
    """
    module: nn.Module = norm.convert_for_export(without_pretrained_weights(model).build(ModelShape.from_spec(spec)))
    load_weights(module, str(folder / "model.safetensors"), replace_head=False)
    return module
