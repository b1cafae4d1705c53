"""Your own pictures: one folder for each class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.data._class_folders import (
    ClassFolders,
    check_nesting,
    find_class_folders,
    note_missing_classes,
    note_other_files,
    warn_of_shared_images,
)
from dnntrain.choices.data._folder_layout import find_layout
from dnntrain.choices.data._image_files import ImageFiles
from dnntrain.choices.data._roots import find_data_root
from dnntrain.errors import ConfigError
from dnntrain.input.file_source import FileSource, RandomCropSource
from dnntrain.input.sample_check import check_value_range
from dnntrain.input.source import DataSet
from dnntrain.protocols import TargetSpec
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class ImageFolder(ImageFiles):
    """Images in ROOT/train/CLASS/, ROOT/val/CLASS/ and ROOT/test/CLASS/, or in ROOT/CLASS/.

    Without a test folder, a part of the images is kept for the test; the name of an image decides
    whether it belongs to it. The images are JPEG, PNG, WebP, AVIF, BMP, GIF, TIFF and PPM files
    (first frame), also in subfolders of a class and behind symbolic links. Hidden files and run
    directories are skipped; files of other kinds are counted. Classes are the folders' names in
    alphabetical order.
    """

    label_key: ClassVar[str] = "root"
    place_options: ClassVar[tuple[str, ...]] = ("root",)

    root: str | None = None  # folder with train/ and test/ (or val/), or with the class folders; null: $DNNTRAIN_DATA
    random_resized_crop: bool = (
        False  # true: train on a random part (8 to 100 %) of each image, resized; always streamed
    )

    @property
    def varies_images(self) -> bool:
        return self.random_resized_crop

    def check_files(self) -> None:
        layout = find_layout(find_data_root(self.root, "image_folder"))
        find_class_folders(layout.train, 2)
        for folder in filter(None, (layout.val, layout.test)):
            find_class_folders(folder, 1)

    def build(self) -> DataSet:
        return self._build(min_classes=2)

    def build_for_evaluation(self) -> DataSet:
        return self._build(min_classes=1)

    def _build(self, min_classes: int) -> DataSet:
        if self.random_resized_crop and self.pipeline == "resident":
            raise ConfigError(
                "data.random_resized_crop=true reads images in every epoch; data.pipeline=resident does not support it",
                "use data.pipeline=streaming or auto",
            )
        root = find_data_root(self.root, "image_folder")
        layout = find_layout(root)
        strict = self.on_error == "raise"
        train = ClassFolders.scan(layout.train, strict, min_classes=min_classes)
        folders = [path for path in (layout.train, layout.val, layout.test) if path is not None]
        notes = [*layout.notes, *note_other_files(folders)]
        notes += [note for folder in folders for note in check_nesting(folder)]
        val = None if layout.val is None else ClassFolders.scan(layout.val, strict, train.class_names)
        if layout.test is not None:
            test = ClassFolders.scan(layout.test, strict, train.class_names)
            warn_of_shared_images(train, test)
        else:
            train, test = train.hold_out_test(self.test_fraction, Key(2012, "image folder test"))
        notes += note_missing_classes("test", test)
        if val is not None:
            notes += note_missing_classes("validation", val)
        train, val_index = train.join_validation(val)
        notes += check_value_range(train.paths, self.max_value)
        return DataSet(
            train=self._build_source(train, training=True),
            test=self._build_source(test, training=False),
            inputs=self.input_spec,
            targets=TargetSpec(train.class_names),
            digest=ClassFolders.compute_splits_digest([train, test], root),
            val_index=val_index,
            has_test_part=layout.test is not None,
            notes=tuple(notes),
        )

    def _build_source(self, split: ClassFolders, training: bool) -> FileSource:
        size_bytes = len(split.paths) * self.channels * math.prod(self.input_size)
        is_random = training and self.random_resized_crop
        source_class = RandomCropSource if is_random else FileSource
        return source_class(
            split.paths,
            split.labels,
            self.input_size,
            self.channels,
            self.keeps_decoded(size_bytes) and not is_random,
            self.on_error == "skip",
            split.keys,
            self.reading,
        )
