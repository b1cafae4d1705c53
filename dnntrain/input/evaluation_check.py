"""Read evaluation images before training, so that a damaged one does not end a run after it."""

from __future__ import annotations

import numpy as np

from dnntrain.errors import DataError
from dnntrain.input.prepared import PreparedData
from dnntrain.input.read_threads import map_in_threads
from dnntrain.input.source import Source
from dnntrain.input.unreadable import check_failure_limit
from dnntrain.utils.rng import Index

#: The most images of a split that are decoded if it is not held in memory.
_MAX_DECODED = 500


def check_evaluation_images(data: PreparedData, has_test: bool, skip_unreadable: bool) -> list[str]:
    """Decode the validation images, and the test images if `has_test`, and return notes for the plan.

    A split that is held in memory is decoded whole, once; of others, 500 images evenly over the
    split. Raises DataError for an unreadable image, or with `skip_unreadable` if there are too many.
    """
    notes = _check_split("validation", data.dataset.train, data.val, skip_unreadable)
    if has_test:
        notes += _check_split("test", data.dataset.test, data.test, skip_unreadable)
    return notes


def _check_split(name: str, source: Source, index: Index, skip_unreadable: bool) -> list[str]:
    notes = []
    if source.get_resident_inputs() is None and len(index):
        count = min(_MAX_DECODED, len(index))
        sample = index[np.unique(np.linspace(0, len(index) - 1, count).round().astype(np.int64))]
        source.failures.update(_decode(source, sample, skip_unreadable))
        check_failure_limit(source.failures, len(source))
        notes.append(f"{len(sample)} of {len(index)} {name} images were decoded as a check before training")
    failures = [number for number in index.tolist() if number in source.failures]
    if failures:
        is_one = len(failures) == 1
        notes.append(
            f"{len(failures)} {name} {'image' if is_one else 'images'} cannot be read and "
            f"{'is' if is_one else 'are'} left out: {source.describe(failures[0])}"
        )
    return notes


def _decode(source: Source, sample: Index, skip_unreadable: bool) -> dict[int, str]:
    """Return the images of `sample` that cannot be read, with the reason."""

    def read(number: int) -> str | None:
        try:
            source.read(number)
        except DataError as error:
            if not skip_unreadable:
                raise
            return error.message
        return None

    numbers: list[int] = sample.tolist()
    reasons = zip(numbers, map_in_threads(read, numbers), strict=True)
    return {number: reason for number, reason in reasons if reason is not None}
