"""Apply a function to those images of a batch for which a keyed draw says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dnntrain.utils.rng import Index, Key


def change_chosen(
    images: Tensor, number: Index, key: Key, probability: float, change: Callable[[Tensor, Index], Tensor]
) -> Tensor:
    """Return a new tensor in which `change(images, number)` replaces the chosen images.

    An image is chosen with `probability`, by draw 0 of its `number` [n].
    """
    chosen = np.flatnonzero(key.uniform(number, 0) < probability)
    result = images.clone()
    if len(chosen):
        rows = torch.from_numpy(chosen).to(images.device)
        # One memory layout: kernels for another one may round differently.
        result[rows] = change(images.index_select(0, rows).contiguous(), number[chosen])
    return result
