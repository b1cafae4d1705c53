"""Play the pointing game: does the largest value of a map lie on the object that it explains?

(Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018.) It needs exact masks, and
is played on objects that are in the image. The center and a random place are the baselines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnntrain.explain.insertion import make_center_map, make_random_maps
from dnntrain.explain.method import Aim, MapMethod
from dnntrain.explain.statistics import Interval, compute_interval
from dnntrain.explain.subject import Subject
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.input.source import DataSet, Source
from dnntrain.utils.rng import Key

#: Examples that are played.
EXAMPLES = 200

#: 15 pixels of an image of Pascal VOC, the margin of the paper, as a share of its side of 500.
MARGIN = 0.03


@dataclass(frozen=True)
class PointingGame:
    """Shares of hits over pairs of an image and an object in it.

    hits, center, random  of the map, the center of the image, and random maps: on the object itself
    near_hits, near_center, near_random  on it or beside it: MARGIN of the shorter side away at most
    inside  mean share of the positive part of a map inside the mask
    area    mean share of the image that the mask covers: the hits of a random place
    """

    objects: int
    hits: Interval
    center: Interval
    random: Interval
    near_hits: Interval
    near_center: Interval
    near_random: Interval
    inside: Interval
    area: float

    @property
    def passed(self) -> bool:
        """Whether the map certainly hits more often than the center."""
        return self.hits.low > self.center.high

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        intervals = {name: value.as_json() for name, value in vars(self).items() if isinstance(value, Interval)}
        return {"objects": self.objects, **intervals, "area": self.area, "passed": self.passed}


def choose_source(split: DataSplit, dataset: DataSet) -> Source:
    """Return the source of `dataset` with the examples of `split`: a run of a fold is tested on training examples."""
    return dataset.train if split.parts[0][0] is split.dataset.train else dataset.test


def play(
    subject: Subject, method: MapMethod, inputs: Tensor, masks: Tensor, targets: Tensor, key: Key
) -> PointingGame | None:
    """Play with every object that is in an image, if the model sees it; None if it sees none.

    inputs   [n, channels, height, width]
    masks    int [n, height, width]: 0 for the background, else the output of the object plus 1
    targets  [n, outputs], 1 for the objects that are in the image
    """
    outputs = subject.loaded.compute_outputs(inputs).cpu()
    probabilities = subject.compute_probabilities(outputs)
    assert probabilities is not None
    threshold = subject.loaded.config.task.get_threshold(subject.loaded.spec)
    rows, objects = ((targets > 0.5) & (probabilities >= threshold)).nonzero(as_tuple=True)
    visible = torch.tensor(
        [bool((masks[row] == number + 1).any()) for row, number in zip(rows, objects, strict=True)], dtype=torch.bool
    )
    if not visible.any():
        return None
    rows, objects = rows[visible], objects[visible]
    maps = []
    for part, numbers in zip(torch.split(rows, 16), torch.split(objects, 16), strict=True):
        images = inputs[part.to(inputs.device)]
        aim = Aim(numbers.to(inputs.device), torch.ones(len(numbers), device=inputs.device))
        maps.append(method.compute_maps(subject.model, images, aim).cpu())
    joined = torch.cat(maps)
    inside = masks[rows] == (objects + 1)[:, None, None]
    height, width = joined.shape[1:]
    center = make_center_map(height, width).expand(len(joined), -1, -1)
    noise = make_random_maps(len(joined), method.grid, height, width, key.with_stream("explain.pointing"), 0)
    positive = joined.clamp_min(0)
    energy = (positive * inside).sum((1, 2)) / positive.sum((1, 2)).clamp_min(1e-30)
    near = widen_masks(inside, max(1, round(MARGIN * min(height, width))))
    strict, wide = (
        [compute_interval(find_hits(item, mask)) for item in (joined, center, noise)] for mask in (inside, near)
    )
    area = float(inside.double().mean())
    return PointingGame(
        len(joined), strict[0], strict[1], strict[2], wide[0], wide[1], wide[2], compute_interval(energy), area
    )


def widen_masks(masks: Tensor, margin: int) -> Tensor:
    """Return masks [n, height, width] with all pixels that are at most `margin` rows and columns away."""
    wide: Tensor = torch.nn.functional.max_pool2d(masks[:, None].float(), 2 * margin + 1, 1, margin)
    return wide[:, 0] > 0


def find_hits(maps: Tensor, inside: Tensor) -> Tensor:
    """Return 1 if the largest value of a map [n, height, width] is inside, else 0; the mean over equal values."""
    largest = maps == maps.amax((1, 2), keepdim=True)
    return (largest & inside).sum((1, 2)).double() / largest.sum((1, 2))
