"""A line with several values → the lines of its trials, in Hydra's grammar for sweeps.

sched=cosine,step      these choices            optim.lr=range(1,4)      1, 2, 3
augment=[mixup],[ema]      these lists              model=glob(resnet*)      every choice of that form
optim.lr=choice(0.1,0.01)                       seed=range(0,10,step=5)  0, 5
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.config.overrides import format_mistake
from dnntrain.errors import ConfigError

#: More trials than this are taken for a mistake.
MAX_TRIALS = 1000

#: Keys that belong to the sweep as a whole.
_UNSWEEPABLE_KEYS = {
    "run_dir": "it is the folder of the whole sweep; each trial has its own folder in it",
    "resume": "each trial goes on where it stopped by itself",
}


@dataclass(frozen=True)
class Combination:
    """One trial: all its words, and of these the ones that differ between trials."""

    words: tuple[str, ...]
    swept_words: tuple[str, ...]


def make_combinations(words: Sequence[str], choices: Callable[[str], Sequence[str]]) -> list[Combination]:
    """The trials of a line: every combination of the values of its words, the last word varying fastest.

    `choices` names the choices of a group, for glob(). Raises ConfigError that lists every word that cannot be swept.
    """
    mistakes: list[str] = []
    word_values = [_expand_word(word, choices, mistakes) for word in words]
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    count = math.prod(len(values) for values in word_values if values is not None)
    if count > MAX_TRIALS:
        sizes = " × ".join(str(len(values)) for values in word_values if values is not None)
        raise ConfigError(f"{sizes} values are more than {MAX_TRIALS} trials", "name fewer values")
    axes = [
        [(word, False)] if values is None else [(value, True) for value in values]
        for word, values in zip(words, word_values, strict=True)
    ]
    return [
        Combination(tuple(word for word, _ in pairs), tuple(word for word, is_swept in pairs if is_swept))
        for pairs in itertools.product(*axes)
    ]


def make_folder_name(number: int, count: int, swept_words: Sequence[str]) -> str:
    """`2-sched=step,optim.lr=0.1`: the name of trial `number` of `count`, of plain characters and at most 100 of them."""
    text = ",".join(word.lstrip("+") for word in swept_words) or "only"
    safe_name = re.sub(r"[^\w.+=,@-]+", "_", re.sub(r"[\[\]{}'\"]", "", text))
    if len(safe_name.encode()) > 90:
        safe_name = f"{safe_name.encode()[:80].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{number:0{len(str(count))}}-{safe_name}"


def _expand_word(word: str, choices: Callable[[str], Sequence[str]], mistakes: list[str]) -> list[str] | None:
    """The words that `word` stands for; None where it has one value, or is for the check of settings to refuse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    prefixed_key, _, raw = word.partition("=")
    key = prefixed_key.lstrip("+~").strip()
    try:
        override = OverridesParser.create().parse_override(f"{key}={raw}")
    except (HydraException, RecursionError, ValueError):
        return None
    if not override.is_sweep_override():
        return None
    if key in _UNSWEEPABLE_KEYS:
        mistakes.append(
            format_mistake(word, f"{key} has one value in a sweep: {_UNSWEEPABLE_KEYS[key]}", f"write {key}=VALUE")
        )
        return None
    try:
        values = _list_values(override, key, choices)
    except (ConfigError, HydraException, ValueError, ArithmeticError) as error:
        mistakes.append(format_mistake(word, *str(error).strip().split("\n  ", 1)))
        return None
    if duplicate := next((value for number, value in enumerate(values) if value in values[:number]), None):
        mistakes.append(format_mistake(word, f"{duplicate} stands there twice", "name each value once"))
    return [f"{prefixed_key}={value}" for value in values]


def _list_values(override: Any, key: str, choices: Callable[[str], Sequence[str]]) -> list[str]:
    """The values of a sweep, each in the form in which a single one is written. Raises ConfigError."""
    from hydra.core.override_parser.types import Glob

    sweep = override.value()
    if not override.is_discrete_sweep():
        raise ConfigError("an interval has no end of values", f"name some: {key}=choice(…) or {key}=range(…)")
    if getattr(sweep, "shuffle", False):
        raise ConfigError("a shuffled sweep would be another one each time", "write the values in their order")
    if isinstance(sweep, Glob):
        values = sweep.filter(list(choices(key)))
    else:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_TRIALS + 1))
    if not values:
        raise ConfigError("no value is left", f"dnntrain ls {key} lists the choices" if isinstance(sweep, Glob) else "")
    return values
