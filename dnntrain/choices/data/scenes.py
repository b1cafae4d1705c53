"""Scenes of several objects, with exact masks, boxes, labels and counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dnntrain.choices.data._idx_dataset import find_idx_folder
from dnntrain.choices.data._scene_painter import PaintedScenes, SceneObject, SceneSettings, paint_scenes
from dnntrain.choices.data.digits import Digits
from dnntrain.choices.data.fashion_mnist import SPEC, FashionMnist
from dnntrain.config.fields import Annotated, Literal, NonNegativeInt, PositiveInt, Range
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.options import FileData
from dnntrain.input.source import ArraySource, DataSet, compute_digest
from dnntrain.protocols import InputSpec, TargetKind, TargetSpec
from dnntrain.utils.rng import Key

if TYPE_CHECKING:
    from torch import Tensor

_KINDS: dict[TargetKind, Literal["masks", "labels", "counts"]] = {
    TargetKind.MASK: "masks",
    TargetKind.LABELS: "labels",
    TargetKind.NUMBERS: "counts",
}


class _Pictures(NamedTuple):
    """The small pictures of both splits, with their labels, the names of their classes, and a digest."""

    train: ArraySource
    test: ArraySource
    names: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Scenes(FileData):
    """Garments of Fashion-MNIST, or handwritten digits, at keyed places on keyed backgrounds.

    Training scenes show training pictures, test scenes show test pictures. The task decides the
    targets: the class of each pixel, the classes that are seen, or the number of objects. All scenes
    are made when the data are read; they are the same on every machine.
    """

    pictures: Literal["fashion_mnist", "digits"] = (
        "fashion_mnist"  # objects: fashion_mnist, or digits, which need no files
    )
    targets: Literal["auto", "masks", "labels", "counts"] = (
        "auto"  # masks, labels (classes that are seen), counts (number of objects), or auto: what the task needs
    )
    train_size: PositiveInt = 2000  # number of training scenes
    test_size: PositiveInt = 500  # number of test scenes
    image_size: Annotated[int, Range(at_least=16, at_most=512)] = (
        64  # side of a scene, pixels; its height if image_width is set
    )
    image_width: Annotated[int, Range(at_least=16, at_most=512)] | None = None  # width of a scene, pixels; null: square
    channels: Literal[1, 3] = 3  # 3: colored objects; 1: gray
    max_objects: Annotated[int, Range(at_least=1, at_most=20)] = 4  # a scene has 1 to this number of objects
    data_seed: NonNegativeInt = 0  # seed of the scenes; another seed is another data set

    def choose_targets(self, kind: TargetKind | None) -> Self:
        if self.targets == "auto" and kind in _KINDS:
            return replace(self, targets=_KINDS[kind])
        return self

    def build_masks(self) -> DataSet:
        return replace(self, targets="masks").build()

    def check_files(self) -> None:
        if self.pictures == "fashion_mnist":
            try:
                find_idx_folder(self, SPEC)
            except DataError as error:
                raise DataError(error.message, f"{error.hint}, or data.pictures=digits, which needs no files") from None

    def build(self) -> DataSet:
        pictures = self._read_pictures()
        painted = {
            name: self._paint(source, size, name)
            for name, source, size in (
                ("train", pictures.train, self.train_size),
                ("test", pictures.test, self.test_size),
            )
        }
        targets = self._make_target_spec(pictures.names, painted["train"])
        digest_texts = [f"{name}={vars(self)[name]}" for name in _DIGEST_OPTIONS]
        return DataSet(
            train=self._make_source(painted["train"], targets, "train"),
            test=self._make_source(painted["test"], targets, "test"),
            inputs=InputSpec((self.channels, *self._size), mean=(0.35,) * self.channels, std=(0.25,) * self.channels),
            targets=targets,
            digest=compute_digest(["scenes", pictures.digest, targets.kind.name, *digest_texts]),
        )

    @property
    def _size(self) -> tuple[int, int]:
        return self.image_size, self.image_width or self.image_size

    def _read_pictures(self) -> _Pictures:
        if self.pictures == "fashion_mnist":
            self.check_files()
            dataset = FashionMnist(root=self.root, download=self.download).build()
        else:
            dataset = Digits().build()
        sources = [source for source in (dataset.train, dataset.test) if isinstance(source, ArraySource)]
        return _Pictures(sources[0], sources[1], dataset.targets.names, dataset.digest)

    def _paint(self, source: ArraySource, size: int, split: str) -> PaintedScenes:
        height, width = self._size
        side = min(height, width)
        sides = (max(8, side * 5 // 16), max(8, side * 9 // 16))
        settings = SceneSettings(height, width, self.channels, self.max_objects, sides)
        images = source.images[:, 0].numpy()
        return paint_scenes(size, images, source.labels, settings, Key(self.data_seed, f"scenes {split}"))

    def _make_target_spec(self, names: tuple[str, ...], train: PaintedScenes) -> TargetSpec:
        if self.targets == "labels":
            return TargetSpec(names, TargetKind.LABELS)
        if self.targets == "counts":
            counts = _count_objects(train)
            if counts.min() == counts.max():
                raise ConfigError(
                    f"data.targets=counts: all scenes have {int(counts[0])} objects", "use data.max_objects=4"
                )
            return TargetSpec(("objects",), TargetKind.NUMBERS, (float(counts.mean()),), (float(counts.std()),))
        return TargetSpec(("background", *names), TargetKind.MASK)

    def _make_source(self, painted: PaintedScenes, targets: TargetSpec, split: str) -> SceneSource:
        name = f"scenes {split}"
        if targets.kind is TargetKind.LABELS:
            return SceneSource(painted, _list_labels(painted, len(targets.names)), name)
        if targets.kind is TargetKind.NUMBERS:
            numbers = (_count_objects(painted)[:, None] - targets.mean[0]) / targets.std[0]
            return SceneSource(painted, numbers, name)
        return MaskedSceneSource(painted, np.zeros(len(painted.images), np.int64), name)


class SceneSource(ArraySource):
    """Scenes in memory. `objects` has those of each scene, `masks` uint8 [n, height, width] their pixels.

    A mask is 0 for the background, else the class of the object plus 1.
    """

    def __init__(self, painted: PaintedScenes, labels: NDArray[Any], name: str) -> None:
        import torch

        super().__init__(torch.from_numpy(painted.images), labels, name)
        self.masks = torch.from_numpy(painted.masks)
        self.objects: tuple[tuple[SceneObject, ...], ...] = painted.objects


class MaskedSceneSource(SceneSource):
    """Scenes whose targets are the masks."""

    def read_mask(self, index: int) -> Tensor:
        return self.masks[index]

    def get_resident_masks(self) -> Tensor:
        return self.masks


def _list_labels(painted: PaintedScenes, classes: int) -> NDArray[np.float32]:
    """Return float32 [n, classes]: 1 for the classes that are seen."""
    rows = np.zeros((len(painted.objects), classes), dtype=np.float32)
    for row, objects in zip(rows, painted.objects, strict=True):
        row[[item.label for item in objects]] = 1
    return rows


def _count_objects(painted: PaintedScenes) -> NDArray[np.float64]:
    """Return the number of objects of each scene [n]."""
    return np.array([len(objects) for objects in painted.objects], dtype=np.float64)


_DIGEST_OPTIONS = ("train_size", "test_size", "image_size", "image_width", "channels", "max_objects", "data_seed")
