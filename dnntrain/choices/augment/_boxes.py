"""Rectangles of pixels, one for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from dnntrain.utils.rng import Index


def make_box_mask(boxes: Index, images: Tensor) -> Tensor:
    """Return a mask of the pixels in boxes, bool [n, 1, h, w].

    `images` are [n, c, h, w]; `boxes` [n, 4] holds top, left, height and width.
    """
    height, width = images.shape[2:]
    top, left, box_height, box_width = torch.from_numpy(boxes).to(images.device).T[:, :, None]
    rows, columns = (torch.arange(size, device=images.device)[None] for size in (height, width))
    in_rows = (rows >= top) & (rows < top + box_height)
    in_columns = (columns >= left) & (columns < left + box_width)
    in_both: Tensor = in_rows[:, :, None] & in_columns[:, None, :]
    return in_both[:, None]
