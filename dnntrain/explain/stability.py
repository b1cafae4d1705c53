"""Check whether maps stay the same under noise that leaves the answer as it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.explain.method import Aim, MapMethod
from dnntrain.explain.statistics import correlate_ranks
from dnntrain.protocols import InputSpec
from dnntrain.utils.rng import Key

#: Standard deviation of the noise as a share of the range of a pixel, and draws for each image.
NOISE = 0.02
DRAWS = 3


def measure_stability(
    method: MapMethod,
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    aim: Aim,
    spec: InputSpec,
    key: Key,
    first: int = 0,
) -> Tensor:
    """Return the mean rank correlation [n] of each map with the maps of noisy copies of its image.

    The noise is keyed by the number of the image, which is `first` for the first one.
    """
    scale = torch.tensor(spec.std, device=inputs.device).view(1, -1, 1, 1)
    correlations = []
    for draw in range(DRAWS):
        noise = draw_noise(inputs.shape, key.with_epoch(draw), first).to(inputs) * NOISE / scale
        correlations.append(correlate_ranks(maps, method.compute_maps(model, inputs + noise, aim)))
    return torch.stack(correlations).mean(0).cpu()


def draw_noise(shape: torch.Size, key: Key, first: int = 0) -> Tensor:
    """Return keyed normal numbers of `shape` by the Box-Muller transform, for rows from `first` on."""
    start = first * shape[1:].numel()
    index = np.arange(start, start + shape.numel())
    radius = np.sqrt(-2 * np.log1p(-key.uniform(index)))
    values = radius * np.cos(2 * np.pi * key.uniform(index, draw=1))
    return torch.from_numpy(values).float().view(shape)
