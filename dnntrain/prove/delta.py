"""Find a smallest set of changes that has an effect, by delta debugging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")


def minimize_changes(changes: Sequence[Item], has_effect: Callable[[tuple[Item, ...]], bool]) -> tuple[Item, ...]:
    """Return changes that have the effect together, of which none can be left out.

    `has_effect` must hold for all `changes`; it is called once for each set. The set is divided into
    parts; if a part, or all but a part, has the effect, the search continues there, else with parts
    of half the size. The number of calls is about 2 log n for a single cause among n.
    Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002.
    """
    answers: dict[tuple[Item, ...], bool] = {}

    def ask(items: tuple[Item, ...]) -> bool:
        if items not in answers:
            answers[items] = has_effect(items)
        return answers[items]

    kept, num_parts = tuple(changes), 2
    while len(kept) > 1:
        bounds = [len(kept) * number // num_parts for number in range(num_parts + 1)]
        parts = [kept[start:end] for start, end in pairwise(bounds)]
        smaller = next((part for part in parts if ask(part)), None)
        if smaller is not None:
            kept, num_parts = smaller, 2
            continue
        rests = [tuple(item for item in kept if item not in part) for part in parts] if num_parts > 2 else []
        rest = next((items for items in rests if ask(items)), None)
        if rest is not None:
            kept, num_parts = rest, max(2, num_parts - 1)
        elif num_parts >= len(kept):
            break
        else:
            num_parts = min(len(kept), 2 * num_parts)
    return kept
