"""Read the dimensions of a search from the words of a sweep.

optim.lr=interval(1e-4,1e-1)             a number in between      optim.lr=tag(log,interval(1e-4,1e-1))  on a log scale
model.depth=int(interval(2,8))           a whole number           seed=range(0,10,step=5)                0, 5
sched=cosine,step                        one of these             model=glob(resnet*)                    one of these
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.config.overrides import format_mistake
from dnntrain.errors import ConfigError
from dnntrain.sweep.grid import MAX_TRIALS, UNSWEEPABLE_KEYS, Combination, list_values, parse_sweep_word
from dnntrain.utils.words import get_key

#: Digits of a value: a search does not gain from more, and names of folders stay short.
_DIGITS = 5


@dataclass(frozen=True)
class Dimension:
    """One dimension of a search: a word with values to choose from, or with an interval of numbers.

    prefix   the word up to its value: `optim.lr=`
    choices  the values; empty for an interval
    low, high, is_log, is_whole   the interval
    """

    prefix: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False

    @property
    def key(self) -> str:
        """The key as it is typed, without a sign."""
        return get_key(self.prefix)

    def make_word(self, value: float | str) -> str:
        """Return the override that sets a value."""
        if self.choices:
            return f"{self.prefix}{value}"
        return f"{self.prefix}{round(float(value)) if self.is_whole else format(float(value), f'.{_DIGITS}g')}"

    def list_probes(self) -> tuple[float | str, ...]:
        """Return the values whose configurations are checked before the search starts."""
        return self.choices or (self.low, self.high)

    def as_json(self) -> dict[str, Any]:
        """Return the dimension as plain values."""
        return {"key": self.key, "choices": list(self.choices)} | (
            {} if self.choices else {"low": self.low, "high": self.high, "log": self.is_log, "whole": self.is_whole}
        )


@dataclass(frozen=True)
class SearchSpace:
    """The words of a line: the fixed ones, and a dimension for each of the others."""

    words: tuple[str | Dimension, ...]

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return tuple(word for word in self.words if isinstance(word, Dimension))

    def make_combination(self, values: Mapping[str, float | str]) -> Combination:
        """Return the words of a trial with these values by key."""
        words = [word if isinstance(word, str) else word.make_word(values[word.key]) for word in self.words]
        swept = tuple(word for word, source in zip(words, self.words, strict=True) if isinstance(source, Dimension))
        return Combination(tuple(words), swept)

    def list_probes(self) -> list[Combination]:
        """Return combinations that together have both ends and every choice of each dimension."""
        probes = [dimension.list_probes() for dimension in self.dimensions]
        count = max((len(values) for values in probes), default=1)
        combinations = [
            self.make_combination(
                {
                    dimension.key: values[min(number, len(values) - 1)]
                    for dimension, values in zip(self.dimensions, probes, strict=True)
                }
            )
            for number in range(count)
        ]
        return list(dict.fromkeys(combinations))


def read_search_space(words: Sequence[str], choices: Callable[[str], Sequence[str]]) -> SearchSpace:
    """Return the search space of a line; `choices` returns the choices of a group, for glob().

    Raises ConfigError that lists every word that cannot be searched, or if no word can.
    """
    mistakes: list[str] = []
    dimensions = [_read_word(word, choices, mistakes) for word in words]
    space = SearchSpace(tuple(dimensions))
    keys = [dimension.key for dimension in space.dimensions]
    mistakes += [f"{key} has values twice\n     name it once" for key in keys if keys.count(key) > 1]
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    if not keys:
        raise ConfigError(
            "a search needs a key with several values",
            "name an interval or choices, as in optim.lr=interval(1e-4,1e-1) sched=cosine,step",
        )
    return space


def _read_word(word: str, choices: Callable[[str], Sequence[str]], mistakes: list[str]) -> str | Dimension:
    override = parse_sweep_word(word)
    if override is None:
        return word
    prefix, key = f"{word.partition('=')[0]}=", get_key(word)
    try:
        if key in UNSWEEPABLE_KEYS:
            raise ConfigError(f"{key} must have one value in a search: {UNSWEEPABLE_KEYS[key]}", f"write {key}=VALUE")
        if override.is_interval_sweep():
            return _read_interval(prefix, override.value())
        values = list_values(override, key, choices)
        if len(values) > MAX_TRIALS:
            raise ConfigError(f"{key} has more than {MAX_TRIALS} values", f"write {key}=interval(LOW,HIGH)")
        return Dimension(prefix, choices=tuple(dict.fromkeys(values)))
    except ConfigError as error:
        mistakes.append(format_mistake(word, *str(error).strip().split("\n  ", 1)))
        return word


def _read_interval(prefix: str, sweep: Any) -> Dimension:
    low, high = float(sweep.start), float(sweep.end)
    is_log = "log" in sweep.tags
    if unknown := sorted(set(sweep.tags) - {"log"}):
        raise ConfigError(f"the tag {unknown[0]} must be log", "write tag(log, interval(LOW,HIGH))")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError("an interval must have a lower and a greater bound", "write interval(LOW,HIGH)")
    if is_log and low <= 0:
        raise ConfigError("an interval on a log scale must begin above 0", f"write tag(log, interval(1e-6,{high:g}))")
    is_whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    return Dimension(prefix, low=low, high=high, is_log=is_log, is_whole=is_whole)
