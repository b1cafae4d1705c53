"""Check maps by insertion and deletion (Petsiuk, Das & Saenko, "RISE", BMVC 2018).

Insertion adds the pixels of an image to the mean color, the most relevant first; deletion covers them
in this order. The value of a curve is the share of the model's answer: the probability of the
explained class. A map is right about the model if the answer rises early and falls early: earlier
than by the order of random maps that are as smooth, and of the distance from the center.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnntrain.explain.method import enlarge_maps
from dnntrain.utils.rng import Key

#: Steps of a curve, and random maps for each image.
STEPS = 12
RANDOM_MAPS = 6

_BATCH = 256

#: (images [m, …], the rows [m] of the examples that they were made of) → share of the answer, [m].
Answer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CurveSet:
    """The curves [n, steps + 1] of each order, from no pixel to all.

    insertion, deletion  orders: "map", "random" (mean over the random maps), and one that needs no
                         model: "center" of images, "end" of texts
    random_areas         for insertion and deletion: areas [n, random maps]
    """

    insertion: dict[str, Tensor]
    deletion: dict[str, Tensor]
    random_areas: dict[str, Tensor]

    @property
    def orders(self) -> tuple[str, ...]:
        """The orders that the map is compared with."""
        return tuple(sorted((order for order in self.insertion if order != "map"), reverse=True))

    def compute_areas(self, kind: str, order: str) -> Tensor:
        """Return the areas [n] under the curves: the mean of the steps, the ends with half their weight."""
        curves = self.insertion if kind == "insertion" else self.deletion
        return compute_area(curves[order])


def compute_area(curves: Tensor) -> Tensor:
    """Return the area [n] under curves [n, steps + 1] over [0, 1] by the trapezoidal rule."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


def make_random_maps(count: int, grid: tuple[int, int], height: int, width: int, key: Key, first: int) -> Tensor:
    """Return `count` maps of independent uniform values at the places of `grid`, enlarged as maps are.

    They are keyed by number, from `first` on.
    """
    import numpy as np

    places = grid[0] * grid[1]
    index = np.arange(first * places, (first + count) * places)
    values = torch.from_numpy(key.uniform(index)).float().view(count, *grid)
    return enlarge_maps(values, height, width)


def make_center_map(height: int, width: int) -> Tensor:
    """Return the map [height, width] that is largest in the center: minus the distance from it."""
    rows = (torch.arange(height) - (height - 1) / 2) / height
    columns = (torch.arange(width) - (width - 1) / 2) / width
    return -(rows[:, None] ** 2 + columns[None] ** 2).sqrt()


def measure_curves(
    answer: Answer, inputs: Tensor, maps: Tensor, grid: tuple[int, int], key: Key, first: int = 0
) -> CurveSet:
    """Return the curves of the maps [n, height, width] of inputs [n, channels, height, width].

    The random maps of an example are keyed by its number, which is `first` for the first one.
    """
    height, width = maps.shape[1:]
    orders = {"map": [maps], "center": [make_center_map(height, width).to(maps).expand(len(maps), -1, -1)]}
    orders["random"] = [
        make_random_maps(len(maps), grid, height, width, key.with_epoch(number), first).to(maps)
        for number in range(RANDOM_MAPS)
    ]
    curves: dict[str, dict[str, Tensor]] = {"insertion": {}, "deletion": {}}
    areas: dict[str, Tensor] = {}
    for kind, is_deletion in (("insertion", False), ("deletion", True)):
        for order, choices in orders.items():
            measured = torch.stack([_measure(answer, inputs, choice, is_deletion) for choice in choices])
            curves[kind][order] = measured.mean(0)
            if order == "random":
                areas[kind] = torch.stack([compute_area(curve) for curve in measured], 1)
    return CurveSet(curves["insertion"], curves["deletion"], areas)


@torch.no_grad()
def _measure(answer: Answer, inputs: Tensor, maps: Tensor, is_deletion: bool) -> Tensor:
    """Return the curves [n, steps + 1] of one order."""
    n, pixels = len(maps), maps[0].numel()
    place = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    points = []
    for step in range(STEPS + 1):
        chosen = (place < round(pixels * step / STEPS)).view(n, 1, *maps.shape[1:])
        points.append(torch.where(chosen != is_deletion, inputs, torch.zeros_like(inputs)))
    images = torch.stack(points, 1).flatten(0, 1)
    rows = torch.arange(n, device=inputs.device).repeat_interleave(STEPS + 1)
    values = [
        answer(part, number)
        for part, number in zip(torch.split(images, _BATCH), torch.split(rows, _BATCH), strict=True)
    ]
    return torch.cat(values).view(n, STEPS + 1).double().cpu()
