"""Who is mixed with whom: partners, shares and soft targets of mixup and cutmix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from dnntrain.utils.rng import Index, Key


def find_partners(position: Index, batch_size: int, block: int, key: Key) -> Index:
    """The row of each example's partner [n]: the next one in a keyed cycle through the examples of its block.

    A block holds the `block` positions from a multiple of `block` on, counted from the first of its step (b * `batch_size`). Layouts cut
    steps between blocks, so that partners are the same on each. Only an example that is alone in its block is its own partner.
    """
    count = len(position)
    if count == 0:
        return position
    step, position_in_step = np.divmod(position, batch_size)
    block_number = step * -(-batch_size // block) + position_in_step // block
    cycle = np.lexsort((key.bits(position), block_number))
    ordered = block_number[cycle]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    following = np.arange(1, count + 1)
    following[np.r_[first[1:], count] - 1] = first
    partner = np.empty(count, np.int64)
    partner[cycle] = cycle[following]
    return partner


def draw_symmetric_beta(alpha: float, key: Key, index: Index) -> NDArray[np.float64]:
    """Numbers of Beta(alpha, alpha), one for each entry of `index`: (1 + T / sqrt(2 alpha + T²)) / 2, where T is Student's t of 2 alpha
    degrees of freedom, T² = 2 alpha (U^(-1 / alpha) - 1) cos²(2 pi V) (Bailey, "Polar generation of random variates with the
    t-distribution", 1994). Exact for every alpha > 0, from two uniform numbers (draws 0 and 1).
    """
    cosine = np.cos(2 * np.pi * key.uniform(index, 1))
    with np.errstate(over="ignore", divide="ignore"):
        square = ((1 - key.uniform(index, 0)) ** (-1 / alpha) - 1) * cosine**2
        numbers: NDArray[np.float64] = 0.5 + 0.5 * np.sign(cosine) / np.sqrt(1 + 1 / square)
    return numbers


def to_soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """float32 [n, classes]: class indices as onehot rows; probabilities as they are."""
    return targets if targets.is_floating_point() else one_hot(targets, num_classes).float()


def blend_rows(first: Tensor, second: Tensor, share: NDArray[np.float64]) -> Tensor:
    """share * own + (1 - share) * other, row by row; written into `other`, which is a copy."""
    weight = torch.from_numpy(share.astype(np.float32)).to(first.device, first.dtype)
    return second.lerp_(first, weight.view(-1, *[1] * (first.ndim - 1)))
