"""Choose the units that go, so that a target is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from torch import nn

from dnntrain.errors import ConfigError
from dnntrain.pruning.criteria import Scores
from dnntrain.pruning.trace import Group
from dnntrain.utils.suggest import did_you_mean

#: Halvings of the interval that holds the ratio.
_HALVINGS = 12

#: For each group the units that go.
Removed = dict[int, list[int]]


@dataclass(frozen=True)
class Rules:
    """Limits of a selection.

    scope     "local": each group loses the same share; "global": the lowest scores of all go;
              "isomorphic": the lowest of groups of the same form
    protect   share of each group that stays at least
    round_to  widths in channels are multiples of it; those of narrower groups, of the largest common
              divisor
    """

    scope: str = "global"
    protect: float = 0.1
    round_to: int = 1


def select_units(
    groups: Sequence[Group], scores: Sequence[Scores | None], ratio: float, rules: Rules, kinds: Sequence[str]
) -> Removed:
    """Return the units that go if the share `ratio` of all units is removed, as far as the rules allow.

    `kinds` names the form of each group for the scope "isomorphic".
    """
    pools: dict[str, list[int]] = {}
    for number, values in enumerate(scores):
        if values is not None:
            key = {"global": "", "local": str(number), "isomorphic": kinds[number]}[rules.scope]
            pools.setdefault(key, []).append(number)
    counts = dict.fromkeys((number for numbers in pools.values() for number in numbers), 0)
    for numbers in pools.values():
        for number in _rank_pool(numbers, scores, ratio, rules, groups):
            counts[number] += 1
    removed: Removed = {}
    for number, count in counts.items():
        units = _round_count(groups[number], count, rules)
        if units:
            values = scores[number]
            assert values is not None
            removed[number] = sorted(np.argsort(values, kind="stable")[:units].tolist())
    return removed


def _rank_pool(
    numbers: Sequence[int], scores: Sequence[Scores | None], ratio: float, rules: Rules, groups: Sequence[Group]
) -> list[int]:
    """Return the group of each unit that goes, the lowest score first."""
    entries: list[tuple[float, int, int]] = []
    for number in numbers:
        values = scores[number]
        assert values is not None
        # Scores of groups of different sizes compare after a division by their mean.
        scaled = values / max(float(values.mean()), 1e-300) if rules.scope != "local" else values
        entries += [(float(score), number, unit) for unit, score in enumerate(scaled)]
    entries.sort()
    wanted = round(ratio * len(entries))
    room = {number: _max_removed(len(groups[number]), rules) for number in numbers}
    chosen: list[int] = []
    for _, number, _unit in entries:
        if len(chosen) == wanted:
            break
        if room[number] > 0:
            room[number] -= 1
            chosen.append(number)
    return chosen


def _max_removed(size: int, rules: Rules) -> int:
    return size - max(1, math.ceil(rules.protect * size - 1e-9))


def _round_count(group: Group, removed: int, rules: Rules) -> int:
    """Return the number of units that go, so that a multiple of channels stays."""
    size, multiple = len(group), get_unit_multiple(group, rules.round_to)
    return size - min(size, math.ceil((size - removed) / multiple) * multiple)


def get_unit_multiple(group: Group, round_to: int) -> int:
    """Return the multiple of units that keeps widths of `group` at multiples of `round_to` channels.

    A unit is a channel, or several, such as a head. A group that is not wider than the multiple keeps
    a multiple of the largest common divisor.
    """
    outputs = [len(indices) for (_, axis), indices in zip(group.axes, group.units[0], strict=True) if axis == 0]
    multiple = round_to // math.gcd(round_to, min(outputs, default=1))
    return multiple if multiple < len(group) else math.gcd(multiple, len(group))


def find_removed(
    groups: Sequence[Group],
    scores: Sequence[Scores | None],
    kinds: Sequence[str],
    rules: Rules,
    limit: float,
    measure: Callable[[Removed], float],
) -> tuple[Removed, float]:
    """Return the smallest removal whose cost is at most `limit`, and its cost.

    `measure` returns the cost of the network without some units. If no removal is enough, the
    largest one is returned.
    """
    lowest, highest = 0.0, 1.0
    best = select_units(groups, scores, highest, rules, kinds)
    cost = measure(best)
    if cost > limit:
        return best, cost
    tried: dict[str, float] = {}
    for _ in range(_HALVINGS):
        middle = (lowest + highest) / 2
        removed = select_units(groups, scores, middle, rules, kinds)
        key = str(removed)
        if key not in tried:
            tried[key] = measure(removed)
        if tried[key] <= limit:
            highest, best, cost = middle, removed, tried[key]
        else:
            lowest = middle
    return best, cost


def name_kinds(model: nn.Module, groups: Sequence[Group]) -> list[str]:
    """Return the form of each group: the layers that it concerns, without their sizes and places."""
    return [
        ",".join(
            sorted(
                f"{type(model.get_submodule(name.rpartition('.')[0])).__name__}.{name.rpartition('.')[2]}:{axis}"
                for name, axis in group.axes
            )
        )
        for group in groups
    ]


def exclude_groups(groups: Sequence[Group], patterns: Sequence[str], model: nn.Module) -> list[Group]:
    """Return the groups that concern no module that matches one of `patterns`.

    `*` also matches dots. Raises ConfigError, with the nearest name, for a pattern that matches
    no module.
    """
    match_excluded(patterns, model)
    return [group for group in groups if not any(_is_excluded(axis, patterns) for axis, _ in group.axes)]


def match_excluded(patterns: Sequence[str], model: nn.Module) -> set[str]:
    """Return the names of the modules that match one of `patterns`.

    Raises ConfigError, with the nearest name, for a pattern that matches none.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"prune.exclude={pattern} does not match a module", did_you_mean(pattern, names[:400]))
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _is_excluded(name: str, patterns: Sequence[str]) -> bool:
    parts = name.split(".")
    prefixes = [".".join(parts[:end]) for end in range(1, len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)


def describe_removed(groups: Sequence[Group], removed: Mapping[int, Sequence[int]]) -> str:
    """Return the width of each group before and after, in a line."""
    return ", ".join(
        f"{groups[number].name} {len(groups[number])}→{len(groups[number]) - len(units)}"
        for number, units in removed.items()
    )
