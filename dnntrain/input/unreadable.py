"""What happens to examples that cannot be read, under `data.on_error=skip`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from dnntrain.errors import DataError
from dnntrain.utils.rng import Index, Key

#: Share of a split that may be unreadable before it counts as damaged.
LIMIT = 0.01

#: Tries to find another example; where 1 % are unreadable, the chance that all fail is 1e-128.
_TRIES = 64


def substitutes(index: int, candidates: Index, key: Key) -> Iterator[int]:
    """The examples to try in place of `index`, in order: keyed by it, the epoch and the number of the attempt."""
    drawing = key.named("substitute")
    for attempt in range(_TRIES):
        yield int(candidates[drawing.integers(np.array([index]), len(candidates), attempt)[0]])


def with_substitutes(index: Index, candidates: Index, failed: Collection[int], key: Key) -> Index:
    """`index` [n] with a readable one of `candidates` in place of each unreadable one: batches keep their size."""
    if not failed:
        return index
    replaced = index.copy()
    for place in np.flatnonzero(np.isin(index, list(failed))):
        replaced[place] = next(
            other for other in substitutes(int(index[place]), candidates, key) if other not in failed
        )
    return replaced


def check_limit(failed: dict[int, str], total: int) -> None:
    """Raises DataError where more than 1 % of `total` examples could not be read."""
    if len(failed) > LIMIT * total:
        raise DataError(
            f"{len(failed)} of {total} images could not be read, more than {LIMIT:.0%}: {next(iter(failed.values()))}",
            "mend or remove the damaged files; data.on_error=skip is for a few of them",
        )
