"""Move the pixels of many images by one projective map each, on bytes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnntrain.protocols import IGNORED

Maps = NDArray[np.float64]


def warp_images(images: Tensor, maps: Maps) -> Tensor:
    """Return `images`, uint8 [n, c, h, w], after one map each, as a new tensor.

    `maps` [n, 3, 3] take homogeneous coordinates (x, y, 1) of a pixel of the result to its place in
    the image; (0, 0) is the center of the image and a pixel has side 1. Values are bilinear, and
    black outside. The result for an image does not depend on the other images: every operation is
    elementwise.
    """
    count, channels, height, width = images.shape
    source_x, source_y, depth = _find_places(images, maps)
    left, top = source_x.floor(), source_y.floor()
    share_x, share_y = source_x - left, source_y - top
    flat = images.reshape(count, channels, -1)
    result = torch.zeros(count, channels, height, width, device=images.device)
    for step_y, weight_y in ((0, 1 - share_y), (1, share_y)):
        for step_x, weight_x in ((0, 1 - share_x), (1, share_x)):
            column, row = left + step_x, top + step_y
            is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
            place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            index = place.view(count, 1, -1).expand(-1, channels, -1)
            values = flat.gather(2, index).view(count, channels, height, width)
            result += values * (weight_y * weight_x * is_inside).unsqueeze(1)
    return result.round().clamp(0, 255).to(torch.uint8)


def warp_masks(masks: Tensor, maps: Maps) -> Tensor:
    """Return `masks`, uint8 [n, 1, h, w], after the maps of `warp_images`: the nearest pixel, 255 outside."""
    count, channels, height, width = masks.shape
    source_x, source_y, depth = _find_places(masks, maps)
    column, row = (source_x + 0.5).floor(), (source_y + 0.5).floor()
    is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().view(count, 1, -1)
    values = masks.reshape(count, channels, -1).gather(2, place.expand(-1, channels, -1))
    return values.view(masks.shape).masked_fill(~is_inside.unsqueeze(1), IGNORED)


def _find_places(images: Tensor, maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
    """Return the column and row [n, h, w] in an image that each pixel of the result shows, and its depth.

    The point is in front of the viewer if the depth is positive.
    """
    height, width = images.shape[2:]
    matrices = torch.from_numpy(maps.astype(np.float32)).to(images.device)
    entries = [[matrices[:, row, column].view(-1, 1, 1) for column in range(3)] for row in range(3)]
    x = (torch.arange(width, device=images.device, dtype=torch.float32) - (width - 1) / 2).view(1, 1, -1)
    y = (torch.arange(height, device=images.device, dtype=torch.float32) - (height - 1) / 2).view(1, -1, 1)
    across, down, depth = (a * x + b * y + c for a, b, c in entries)
    return across / depth + (width - 1) / 2, down / depth + (height - 1) / 2, depth


def make_rotations(degrees: NDArray[np.float64]) -> Maps:
    """Return the maps [n, 3, 3] that turn images counterclockwise by `degrees` [n]."""
    angle = np.deg2rad(degrees)
    maps = np.zeros((len(degrees), 3, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = np.cos(angle)
    # The y axis points down, so a place of the result is turned back clockwise as seen.
    maps[:, 0, 1], maps[:, 1, 0] = -np.sin(angle), np.sin(angle)
    maps[:, 2, 2] = 1.0
    return maps


def solve_corner_maps(corners: NDArray[np.float64], moved: NDArray[np.float64]) -> Maps:
    """Return the maps [n, 3, 3] that take each of `moved` [n, 4, 2] to the corner [4, 2] that it was.

    Points are (x, y). The map is the homography of four pairs of points, with its last entry 1.
    """
    count = len(moved)
    system, values = np.zeros((count, 8, 8)), np.zeros((count, 8))
    for number in range(4):
        x, y = moved[:, number, 0], moved[:, number, 1]
        for axis in range(2):
            row, target = 2 * number + axis, corners[number, axis]
            first = 3 * axis
            system[:, row, first], system[:, row, first + 1], system[:, row, first + 2] = x, y, 1.0
            system[:, row, 6], system[:, row, 7] = -x * target, -y * target
            values[:, row] = target
    # One system at a time: a batched solver may round differently in another company.
    solved = np.stack([np.linalg.solve(a, b) for a, b in zip(system, values, strict=True)]) if count else values
    return np.concatenate([solved, np.ones((count, 1))], axis=1).reshape(count, 3, 3)
