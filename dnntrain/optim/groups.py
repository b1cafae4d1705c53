"""Parameter groups: which parameters decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of named parameters: weights with decay; biases and normalisation parameters (all vectors) without.

    Decaying gains and biases only costs accuracy (He et al., "Bag of tricks", 2019, section 3.1). Empty groups are left out.
    """
    decayed: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and not _is_embedding(name) else plain).append((name, parameter))
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_embedding(name: str) -> bool:
    return name.endswith(("position_embedding", "pos_embed", "class_token", "cls_token"))
