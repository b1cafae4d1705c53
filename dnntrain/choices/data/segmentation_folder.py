"""Your own pictures with a mask for each: images/ and masks/."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dnntrain.choices.data._class_folders import describe_files
from dnntrain.choices.data._image_files import ImageFiles
from dnntrain.choices.data._mask_files import MaskClasses, choose_classes, find_values, read_fitted_mask
from dnntrain.choices.data._mask_folders import Pairs, find_pairs
from dnntrain.choices.data._roots import find_data_root
from dnntrain.config.fields import NonNegativeInt
from dnntrain.errors import DataError
from dnntrain.input.decoded_cache import DecodedCache, OpenMemory
from dnntrain.input.file_source import FileSource
from dnntrain.input.read_threads import map_in_threads
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.input.split import hold_out_by_name
from dnntrain.protocols import TargetKind, TargetSpec
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.shared_pages import open_forked_memory

if TYPE_CHECKING:
    from torch import Tensor

#: The test images do not depend on the seed of a run.
_TEST_KEY = Key(2012, "segmentation folder test")


@dataclass(frozen=True)
class SegmentationFolder(ImageFiles):
    """Images in ROOT/images/, and masks of the same names in ROOT/masks/.

    Splits are ROOT/train/images/ and ROOT/train/masks/, or ROOT/images/train/ and ROOT/masks/train/; val
    and test likewise. Without a test folder, a part of the images is kept for the test; the name of an
    image decides. The value of a mask's pixel, its index in a palette, or its color is its class.
    """

    label_key: ClassVar[str] = "root"
    place_options: ClassVar[tuple[str, ...]] = ("root", "classes")

    root: str | None = None  # folder with images/ and masks/, or with train/ and val/; null: $DNNTRAIN_DATA
    classes: str | None = (
        None  # text file with a class in each line: NAME, VALUE,NAME or #RRGGBB,NAME; null: found in the masks
    )
    ignore_value: NonNegativeInt | None = 255  # value of pixels that do not count; null: all count

    def check_files(self) -> None:
        find_pairs(find_data_root(self.root, "segmentation_folder"))

    def build(self) -> DataSet:
        root = find_data_root(self.root, "segmentation_folder")
        splits = find_pairs(root)
        values = {name: find_values(pairs.masks, pairs.read_sizes(), pairs.images) for name, pairs in splits.items()}
        file = None if self.classes is None else Path(self.classes).expanduser()
        classes = choose_classes(values["train"], file, self.ignore_value)
        for name, pairs in splits.items():
            for path, numbers in zip(pairs.masks, values[name], strict=True):
                classes.to_classes(np.array(sorted(numbers)), path)
        train, val, test = splits["train"], splits.get("val"), splits.get("test")
        has_test_part, val_index = test is not None or val is not None, None
        if test is None:
            val, test = None, val
        if test is None:
            train, test = self._hold_out(train)
        elif val is not None:
            val_index = np.arange(len(train.images), len(train.images) + len(val.images))
            train = train.join(val)
        files = [path for pairs in (train, test) for path in (*pairs.images, *pairs.masks)]
        return DataSet(
            train=self._make_source(train, classes),
            test=self._make_source(test, classes),
            inputs=self.input_spec,
            targets=TargetSpec(classes.names, TargetKind.MASK),
            digest=compute_digest(
                [
                    "segmentation_folder",
                    *classes.names,
                    *map(str, classes.values),
                    str(classes.ignored),
                    *describe_files(files, root),
                ]
            ),
            val_index=val_index,
            has_test_part=has_test_part,
        )

    def _hold_out(self, pairs: Pairs) -> tuple[Pairs, Pairs]:
        train, test = hold_out_by_name(pairs.keys, np.zeros(len(pairs.keys), np.int64), self.test_fraction, _TEST_KEY)
        if not len(test) or not len(train):
            raise DataError(
                f"data.test_fraction={self.test_fraction:g} leaves no {'test' if len(train) else 'training'} image "
                f"of {len(pairs.keys)}",
                "set another data.test_fraction, or put test images in ROOT/test/images/",
            )
        return pairs.select(train), pairs.select(test)

    def _make_source(self, pairs: Pairs, classes: MaskClasses) -> MaskFileSource:
        size_bytes = len(pairs.images) * (self.channels + 1) * math.prod(self.input_size)
        return MaskFileSource(pairs, classes, self.input_size, self.channels, self.keeps_decoded(size_bytes), self)


class MaskFileSource(FileSource):
    """Images and masks in files. Skipped images stay in `failures`; their masks are never read."""

    def __init__(
        self,
        pairs: Pairs,
        classes: MaskClasses,
        size: tuple[int, int],
        channels: int,
        keep_decoded: bool,
        options: SegmentationFolder,
    ) -> None:
        labels: NDArray[Any] = np.zeros(len(pairs.images), np.int64)
        skips = options.on_error == "skip"
        super().__init__(pairs.images, labels, size, channels, keep_decoded, skips, pairs.keys, options.reading)
        self.mask_paths = pairs.masks
        self.classes = classes
        self._masks: Tensor | None = None
        self._mask_cache: DecodedCache | None = None

    @property
    def has_cache(self) -> bool:
        return super().has_cache and self._mask_cache is not None and self._mask_cache.has_memory

    def open_cache(self, open_memory: OpenMemory = open_forked_memory) -> None:
        super().open_cache(open_memory)
        if self._mask_cache is None:
            self._mask_cache = DecodedCache(len(self), (*self.size, 1), open_memory)

    def read_mask(self, index: int) -> Tensor:
        cache = self._mask_cache
        return (self.decode_mask(index) if cache is None else cache.read(index, self.decode_mask))[0]

    def decode_mask(self, index: int) -> Tensor:
        """Return what `read_mask` returns, from the file: uint8 [1, height, width]."""
        import torch

        return torch.from_numpy(read_fitted_mask(self.mask_paths[index], self.classes, self.size, self.reading))[None]

    def has_cached(self, indices: Index) -> bool:
        cache = self._mask_cache
        return super().has_cached(indices) and cache is not None and cache.has(self.select_readable(indices))

    def get_resident_masks(self) -> Tensor | None:
        if self._mask_cache is not None and self._mask_cache.has_memory:
            return self._mask_cache.get_all()[:, 0]
        if self.get_resident_inputs() is not None and self._masks is None:
            import torch

            self._masks = torch.stack(list(map_in_threads(self.read_mask, range(len(self)))))
        return self._masks
