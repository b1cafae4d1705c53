"""A network with trained weights in it."""

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
    """The choice that `config`[group] holds the knobs of: as typed, or what a preset of the user's own presets."""
    typed_name = str(config["choices"][group])
    return typed_name if typed_name in load_registry().get_choices(group) else str(config[group]["name"])


def has_name_option(group: str, choice: str) -> bool:
    """True where `name` is a knob of the choice, and not the choice's own name."""
    return "name" in load_registry().get_choice(group, choice).schema.fields


def build_network(model: Any, norm: Any, folder: Path, spec: ModelSpec) -> nn.Module:
    """What the choices `model` and `norm` build, with the weights of `folder`/model.safetensors, on the CPU.

    Raises CheckpointError where the file is damaged, or is of another network.
    """
    module: nn.Module = norm.convert_for_export(without_pretrained_weights(model).build(ModelShape.from_spec(spec)))
    load_weights(module, str(folder / "model.safetensors"), replace_head=False)
    return module
