"""Paste small pictures at keyed places on keyed backgrounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnntrain.utils.rng import Index, Key

#: Draws that are reserved for each object of a scene.
_DRAWS = 64

#: Places that are tried for an object, and the share of its box that earlier boxes may cover.
_TRIES = 8
_MAX_COVERED = 0.25

#: A pixel of a small picture belongs to its object from this value on.
_THRESHOLD = 24


@dataclass(frozen=True)
class SceneSettings:
    """height, width, channels of a scene; at most `max_objects` objects with sides from `sides[0]` to `sides[1]`."""

    height: int
    width: int
    channels: int
    max_objects: int
    sides: tuple[int, int]


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene: the class from 0 on, the box of its visible pixels, and their number.

    The box is (top, left, height, width) in pixels.
    """

    label: int
    box: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True)
class PaintedScenes:
    """images uint8 [n, channels, height, width]; masks uint8 [n, height, width], 0 or class + 1; their objects."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    objects: tuple[tuple[SceneObject, ...], ...]


def paint_scenes(
    count: int, pictures: NDArray[np.uint8], labels: NDArray[np.int64], settings: SceneSettings, key: Key
) -> PaintedScenes:
    """Paint `count` scenes of `pictures` [m, side, side] with `labels` [m].

    All choices are keyed by the number of the scene. A scene has 1 to `max_objects` objects. Later
    objects cover earlier ones; an object that finds no free place in 8 tries is left out.
    """
    numbers = np.arange(count)
    images = _paint_backgrounds(numbers, settings, key.with_stream(f"{key.stream} background"))
    masks = np.zeros((count, settings.height, settings.width), dtype=np.uint8)
    amounts = 1 + key.integers(numbers, settings.max_objects, 0)
    draws = key.with_stream(f"{key.stream} objects")
    objects = tuple(
        _paint_objects(images[number], masks[number], number, int(amounts[number]), pictures, labels, settings, draws)
        for number in range(count)
    )
    return PaintedScenes(images, masks, objects)


def _paint_backgrounds(numbers: Index, settings: SceneSettings, key: Key) -> NDArray[np.uint8]:
    """Return gradients between two dark keyed colors in a keyed direction, under noise."""
    count, height, width, channels = len(numbers), settings.height, settings.width, settings.channels
    across, down = (2 * key.uniform(numbers, draw) - 1 for draw in (0, 1))
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)
    slope = across[:, None, None] * x[None, None, :] + down[:, None, None] * y[None, :, None]
    share = (slope + 2) / 4
    images = np.empty((count, channels, height, width), dtype=np.uint8)
    for channel in range(channels):
        first, second = (110 * key.uniform(numbers, 2 + 2 * channel + end) for end in (0, 1))
        pixels = np.arange(count * height * width).reshape(count, height, width)
        noise = 30 * key.uniform(pixels.ravel(), 16 + channel).reshape(pixels.shape)
        shade = first[:, None, None] * (1 - share) + second[:, None, None] * share
        images[:, channel] = (shade + noise).astype(np.uint8)
    return images


def _paint_objects(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    number: int,
    amount: int,
    pictures: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: SceneSettings,
    key: Key,
) -> tuple[SceneObject, ...]:
    """Paste objects into `image` and `mask`, in place, and return those that are seen."""
    owners = np.full(mask.shape, -1, dtype=np.int64)
    boxes: list[tuple[int, int, int]] = []
    chosen: list[int] = []
    for place in range(amount):
        draws = key.uniform(np.full(_DRAWS, number * settings.max_objects + place) * _DRAWS + np.arange(_DRAWS))
        smallest, largest = settings.sides
        side = smallest + min(int(draws[0] * (largest - smallest + 1)), largest - smallest)
        box = _find_place(side, boxes, settings, draws[8:])
        if box is None:
            continue
        picture_number = min(int(draws[1] * len(pictures)), len(pictures) - 1)
        picture = _resize(pictures[picture_number], side)
        is_object = picture >= _THRESHOLD
        if not is_object.any():
            continue
        top, left, _ = box
        rows, columns = slice(top, top + side), slice(left, left + side)
        for channel in range(settings.channels):
            tint = 0.55 + 0.45 * draws[2 + channel]
            shade = (70 + picture * (tint * 185 / 255)).astype(np.uint8)
            image[channel, rows, columns][is_object] = shade[is_object]
        mask[rows, columns][is_object] = labels[picture_number] + 1
        owners[rows, columns][is_object] = len(chosen)
        boxes.append(box)
        chosen.append(int(labels[picture_number]))
    return tuple(
        _describe_object(label, owners == owner) for owner, label in enumerate(chosen) if (owners == owner).any()
    )


def _find_place(
    side: int, boxes: list[tuple[int, int, int]], settings: SceneSettings, draws: NDArray[np.float64]
) -> tuple[int, int, int] | None:
    """Return (top, left, side) of a place that covers no earlier box by more than a quarter; None if none is found."""
    for attempt in range(_TRIES):
        top = int(draws[2 * attempt] * (settings.height - side + 1))
        left = int(draws[2 * attempt + 1] * (settings.width - side + 1))
        for other_top, other_left, other_side in boxes:
            height = min(top + side, other_top + other_side) - max(top, other_top)
            width = min(left + side, other_left + other_side) - max(left, other_left)
            if max(0, height) * max(0, width) > _MAX_COVERED * min(side, other_side) ** 2:
                break
        else:
            return top, left, side
    return None


def _resize(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the picture at `side` × `side` pixels; each takes the nearest value."""
    places = np.arange(side) * len(picture) // side
    return picture[np.ix_(places, places)]


def _describe_object(label: int, is_visible: NDArray[np.bool_]) -> SceneObject:
    rows, columns = np.flatnonzero(is_visible.any(1)), np.flatnonzero(is_visible.any(0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1))
    return SceneObject(label, box, int(is_visible.sum()))
