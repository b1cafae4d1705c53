"""Expand a command line into its trials, in Hydra's sweep grammar.

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
from dnntrain.utils.words import get_key

#: A line with more trials than this is rejected.
MAX_TRIALS = 1000

#: Keys that belong to the sweep as a whole.
UNSWEEPABLE_KEYS = {
    "run_dir": "it is the folder of the whole sweep; each trial has its own folder in it",
    "resume": "each trial resumes by itself",
}


@dataclass(frozen=True)
class Combination:
    """One trial: all its words, and the words that differ between trials."""

    words: tuple[str, ...]
    swept_words: tuple[str, ...]


def make_combinations(words: Sequence[str], choices: Callable[[str], Sequence[str]]) -> list[Combination]:
    """Return the trials of a line: every combination of the values of its words.

    The last word varies fastest. `choices` returns the choices of a group, for glob(). Raises
    ConfigError that lists every word that cannot be swept.
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


def leave_out_folder(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words without run_dir, which is the folder of all trials."""
    return tuple(word for word in words if not word.startswith("run_dir="))


def make_folder_name(number: int, count: int, swept_words: Sequence[str]) -> str:
    """Return the folder name of a trial: `2-sched=step,optim.lr=0.1`.

    It has plain characters, at most 100.
    """
    text = ",".join(word.lstrip("+") for word in swept_words) or "only"
    safe_name = re.sub(r"[^\w.+=,@-]+", "_", re.sub(r"[\[\]{}'\"]", "", text))
    if len(safe_name.encode()) > 90:
        safe_name = f"{safe_name.encode()[:80].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{number:0{len(str(count))}}-{safe_name}"


def _expand_word(word: str, choices: Callable[[str], Sequence[str]], mistakes: list[str]) -> list[str] | None:
    """Return the words for the values of `word`.

    Returns None if it has one value or the checks must reject it.
    """
    override = parse_sweep_word(word)
    if override is None:
        return None
    prefixed_key, key = word.partition("=")[0], get_key(word)
    if key in UNSWEEPABLE_KEYS:
        mistakes.append(
            format_mistake(word, f"{key} must have one value in a sweep: {UNSWEEPABLE_KEYS[key]}", f"write {key}=VALUE")
        )
        return None
    try:
        values = list_values(override, key, choices)
    except ConfigError as error:
        mistakes.append(format_mistake(word, *str(error).strip().split("\n  ", 1)))
        return None
    if duplicate := next((value for number, value in enumerate(values) if value in values[:number]), None):
        mistakes.append(format_mistake(word, f"{duplicate} appears twice", "name each value once"))
    return [f"{prefixed_key}={value}" for value in values]


def parse_sweep_word(word: str) -> Any:
    """Return Hydra's override of a word with several values.

    Returns None if it has one value or the checks must reject it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, raw = get_key(word), word.partition("=")[2]
    try:
        override = OverridesParser.create().parse_override(f"{key}={raw}")
    except (HydraException, RecursionError, ValueError):
        return None
    return override if override.is_sweep_override() else None


def list_values(override: Any, key: str, choices: Callable[[str], Sequence[str]]) -> list[str]:
    """Return the values of a sweep, each written as a single override; of more than MAX_TRIALS, one more than that.

    Raises ConfigError.
    """
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    sweep = override.value()
    if not override.is_discrete_sweep():
        raise ConfigError(
            "an interval has infinitely many values",
            f"search in it with --search tpe --trials 20, or list values: {key}=choice(…)",
        )
    if getattr(sweep, "shuffle", False):
        raise ConfigError(
            "a sweep does not support shuffle, because its order would change each time",
            "write the values in their order",
        )
    if isinstance(sweep, Glob):
        values = sweep.filter(list(choices(key)))
    else:
        try:
            values = list(itertools.islice(override.sweep_string_iterator(), MAX_TRIALS + 1))
        except (HydraException, ValueError, ArithmeticError) as error:
            raise ConfigError(str(error).strip()) from None
    if not values:
        raise ConfigError("no value matches", f"dnntrain ls {key} lists the choices" if isinstance(sweep, Glob) else "")
    return values
