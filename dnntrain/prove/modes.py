"""Find out what a line of `dnntrain prove` compares."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from typing import Literal

from dnntrain.errors import ConfigError

Mode = Literal["train", "runs", "sweep"]

_EXAMPLE = 'as in: dnntrain prove model=resnet20 --a "" --b "+average=[ema]"'
_MODE_OPTIONS: dict[Mode, frozenset[str]] = {
    "train": frozenset({"a", "b"}),
    "runs": frozenset({"runs_a", "runs_b"}),
}


def choose_mode(operands: Sequence[str], given: Collection[str], overrides: Sequence[str]) -> Mode:
    """Return what a line compares: two configurations, two sets of runs, or a sweep.

    `given` are the options of the line. Raises ConfigError unless it is exactly one of these.
    """
    named = [mode for mode, keys in _MODE_OPTIONS.items() if keys & set(given)]
    if operands:
        if len(operands) != 2 or operands[0] != "sweep" or named:
            raise ConfigError("prove takes settings, or: prove sweep DIR", _EXAMPLE)
        if "exit_code" in given:
            raise ConfigError("--exit-code has no effect on the several verdicts of a sweep", "use --json")
        return "sweep"
    if len(named) != 1 or not _MODE_OPTIONS[named[0]] <= set(given):
        raise ConfigError("prove needs --a and --b, or --runs-a and --runs-b, or: prove sweep DIR", _EXAMPLE)
    if named == ["runs"] and overrides:
        raise ConfigError(f"{overrides[0]} has no effect on finished runs", "leave it out, or use --a and --b")
    return named[0]


def split_settings(text: str) -> list[str]:
    """Return the words of --a or --b. Raises ConfigError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}", "close the quotes") from None
