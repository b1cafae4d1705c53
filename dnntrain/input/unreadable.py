"""Replace examples that cannot be read, for `data.on_error=skip`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from dnntrain.errors import DataError
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.units import pluralize

#: Maximum unreadable share of a split; above it the split counts as damaged. One
#: unreadable example is always allowed.
MAX_UNREADABLE_SHARE = 0.01

#: Tries to find another example; if 1 % are unreadable, the chance that all fail is 1e-128.
_TRIES = 64


def draw_substitutes(index: int, candidates: Index, key: Key) -> Iterator[int]:
    """Yield the examples to try in place of `index`.

    They are keyed by `index`, the epoch and the number of the attempt.
    """
    substitute_key = key.with_stream("substitute")
    for attempt in range(_TRIES):
        yield int(candidates[substitute_key.integers(np.array([index]), len(candidates), attempt)[0]])


def replace_unreadable(index: Index, candidates: Index, unreadable: Collection[int], key: Key) -> Index:
    """Return `index` [n] with each unreadable example replaced by a readable one.

    Batches keep their size.
    """
    if not unreadable:
        return index
    readable_index = index.copy()
    for position in np.flatnonzero(np.isin(index, list(unreadable))):
        readable_index[position] = next(
            substitute
            for substitute in draw_substitutes(int(index[position]), candidates, key)
            if substitute not in unreadable
        )
    return readable_index


def check_failure_limit(failures: dict[int, str], total: int) -> None:
    """Raise DataError if more than 1 % of `total` examples, and more than one, could not be read."""
    limit = max(1, int(MAX_UNREADABLE_SHARE * total))
    if len(failures) > limit:
        raise DataError(
            f"{len(failures)} of {total} images could not be read; the limit is {limit} "
            f"({MAX_UNREADABLE_SHARE:.0%}): {next(iter(failures.values()))}",
            "repair or remove the damaged files; data.on_error=skip allows for a few only",
        )


def describe_skipped(reasons: Collection[str]) -> str:
    """Return the number of examples that were skipped, with the reason for the first by name."""
    verb = "was" if len(reasons) == 1 else "were"
    return f"{pluralize(len(reasons), 'unreadable example')} {verb} skipped; the first: {min(reasons)}"
