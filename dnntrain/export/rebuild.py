"""Rebuild a network from a saved configuration, with its trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.checkpoint.model_card import read_card_widths
from dnntrain.config.registry import load_registry
from dnntrain.config.saved_choice import find_saved_choice
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights
from dnntrain.protocols import ModelSpec
from dnntrain.pruning.widths import apply_widths


def get_choice(config: Mapping[str, Any], group: str) -> str:
    """Return the choice whose options `config`[group] holds.

    It is the choice as typed, or the built-in one behind a preset of the user.
    """
    return find_saved_choice(group, group, config[group], config, load_registry()).name


def build_network(model: Any, norm: Any, folder: Path, spec: ModelSpec) -> nn.Module:
    """Build the network of the choices `model` and `norm` with the weights of `folder`, on the CPU.

    The weights are in model.safetensors, the widths of a pruned network in config.json. Raises CheckpointError if the file is damaged or of
    another network.
    """
    module: nn.Module = norm.convert_for_export(model.without_pretrained_weights().build(ModelShape.from_spec(spec)))
    module = apply_widths(module, read_card_widths(folder))
    load_weights(module, str(folder / "model.safetensors"), replace_head=False)
    return module
