"""A network with trained weights in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.model.shape import ModelShape
from dnntrain.model.weights import load_weights


def network(model: Any, norm: Any, folder: Path, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """What the choices `model` and `norm` build, with the weights of `folder`/model.safetensors, on the CPU.

    Raises CheckpointError where the file is damaged, or is of another network.
    """
    built: nn.Module = norm.exported(model.build(ModelShape(num_classes, *input_shape)))
    load_weights(built, str(folder / "model.safetensors"), replace_head=False)
    return built
