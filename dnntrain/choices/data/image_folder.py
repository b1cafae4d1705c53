"""Your own pictures: one folder for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.choices.data._class_folders import ClassFolders, check_same_classes, find_splits, warn_of_shared_images
from dnntrain.choices.data._roots import find_data_root
from dnntrain.config.fields import Annotated, Literal, Range
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.file_source import FileSource, RandomCropSource
from dnntrain.input.options import ImageData
from dnntrain.input.source import DataSet
from dnntrain.input.split import hold_out_examples
from dnntrain.protocols import InputSpec, TargetSpec
from dnntrain.utils.rng import Key

#: With `pipeline=auto`, splits up to this many bytes at input size are decoded once and held in memory.
RESIDENT_BYTES = 256 * 2**20

#: Channel means and deviations of ImageNet's training images; for gray, of their luminance.
_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


@dataclass(frozen=True)
class ImageFolder(ImageData):
    """Images in ROOT/train/CLASS/ and ROOT/test/CLASS/ (or val/), or in ROOT/CLASS/.

    Without a test folder, a fixed part of the images is kept for the test. The images are JPEG,
    PNG, WebP, BMP, GIF and TIFF files (first frame), also in subfolders of a class and behind
    symbolic links. Hidden files and other suffixes are skipped. Classes are the folders' names in
    alphabetical order.
    """

    label_key: ClassVar[str] = "root"

    root: str | None = None  # folder with train/ and test/ (or val/), or with the class folders; null: $DNNTRAIN_DATA
    image_size: Annotated[int, Range(at_least=1, at_most=4096)] = (
        64  # side of the network's input, pixels; the shorter side is resized, the center cropped
    )
    channels: Literal[1, 3] = 3  # 3: color; 1: gray
    random_resized_crop: bool = (
        False  # true: train on a random part (8 to 100 %) of each image, resized; always streamed
    )
    test_fraction: Annotated[float, Range(above=0, below=1)] = (
        0.2  # fraction of each class held out for the test if there is no test split
    )

    @property
    def varies_images(self) -> bool:
        return self.random_resized_crop

    def build(self) -> DataSet:
        if self.random_resized_crop and self.pipeline == "resident":
            raise ConfigError(
                "data.random_resized_crop=true reads images in every epoch; data.pipeline=resident does not support it",
                "use data.pipeline=streaming or auto",
            )
        root = find_data_root(self.root, "image_folder")
        train, test = self._scan_splits(root)
        return DataSet(
            train=self._build_source(train, training=True),
            test=self._build_source(test, training=False),
            inputs=InputSpec(
                (self.channels, self.image_size, self.image_size), _MEAN[self.channels], _STD[self.channels]
            ),
            targets=TargetSpec(train.class_names),
            digest=ClassFolders.compute_splits_digest([train, test], root),
        )

    def _scan_splits(self, root: Path) -> tuple[ClassFolders, ClassFolders]:
        train_folder, test_folder = find_splits(root)
        train = ClassFolders.scan(train_folder, strict=self.on_error == "raise")
        if test_folder is not None:
            test = ClassFolders.scan(test_folder, strict=self.on_error == "raise")
            check_same_classes(train, test)
            warn_of_shared_images(train, test)
            return train, test
        train_index, test_index = hold_out_examples(
            train.labels, round(self.test_fraction * len(train.labels)), Key(2012, "image folder test")
        )
        if len(test_index) == 0:
            raise DataError(
                f"{train.folder}: "
                f"data.test_fraction={self.test_fraction:g} selects none of its {len(train.paths)} images",
                "set a larger data.test_fraction, or put test images in ROOT/test/CLASS/",
            )
        return train.select_images(train_index), train.select_images(test_index)

    def _build_source(self, split: ClassFolders, training: bool) -> FileSource:
        size_bytes = len(split.paths) * self.channels * self.image_size**2
        is_random = training and self.random_resized_crop
        keep_decoded = not is_random and (
            self.pipeline == "resident" or (self.pipeline == "auto" and size_bytes <= RESIDENT_BYTES)
        )
        source_class = RandomCropSource if is_random else FileSource
        return source_class(
            split.paths, split.labels, self.image_size, self.channels, keep_decoded, self.on_error == "skip"
        )
