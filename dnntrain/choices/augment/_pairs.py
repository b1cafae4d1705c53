"""Partners, shares and soft targets of mixup and cutmix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from dnntrain.utils.rng import Index, Key


def find_partners(position: Index, batch_size: int, block: int, key: Key) -> Index:
    """Return the row [n] of each example's partner.

    The partner is the next example in a keyed cycle through the block. A block holds the `block`
    positions that begin at a multiple of `block`, counted from the first position of the step
    (b * `batch_size`). Layouts split steps between blocks, so that partners are the same on each
    layout. An example is its own partner only if it is alone in its block.
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
    """Draw a number of Beta(alpha, alpha) for each entry of `index`.

    It is (1 + T / sqrt(2 alpha + T²)) / 2, where T is Student's t with 2 alpha degrees of freedom:
    T² = 2 alpha (U^(-1 / alpha) - 1) cos²(2 pi V) (Bailey, "Polar generation of random variates
    with the t-distribution", 1994). This is exact for every alpha > 0, from two uniform numbers
    (draws 0 and 1).
    """
    cosine = np.cos(2 * np.pi * key.uniform(index, 1))
    with np.errstate(over="ignore", divide="ignore"):
        square = ((1 - key.uniform(index, 0)) ** (-1 / alpha) - 1) * cosine**2
        numbers: NDArray[np.float64] = 0.5 + 0.5 * np.sign(cosine) / np.sqrt(1 + 1 / square)
    return numbers


def to_soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Return float32 [n, classes]: class indices as one-hot rows, probabilities as they are."""
    return targets if targets.is_floating_point() else one_hot(targets, num_classes).float()


def blend_rows(first: Tensor, second: Tensor, share: NDArray[np.float64]) -> Tensor:
    """Return share * first + (1 - share) * second, row by row; overwrite `second`."""
    weight = torch.from_numpy(share.astype(np.float32)).to(first.device, first.dtype)
    return second.lerp_(first, weight.view(-1, *[1] * (first.ndim - 1)))
