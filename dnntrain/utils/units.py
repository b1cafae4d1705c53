"""Parse and format durations and sizes: `10ep`, `5000step`, `90s`, `5%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Unit = Literal["step", "ep", "s", "%"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*(steps?|ep|epochs?|s|sec|%)")
#: The largest value of a duration: steps are then exact integers in a float.
_MAX_VALUE = 1e15

_UNITS: dict[str, Unit] = {
    "step": "step",
    "steps": "step",
    "ep": "ep",
    "epoch": "ep",
    "epochs": "ep",
    "s": "s",
    "sec": "s",
    "%": "%",
}


@dataclass(frozen=True)
class Duration:
    """A length of training in optimizer steps, epochs, seconds or percent of the run.

    An epoch is one pass over the training examples. `value` is at least 0; steps are whole. Epochs
    may be fractions: `0.5ep`.
    """

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Parse `"10ep"` to Duration(10, "ep"). Raises ValueError that names the form."""
        match = _DURATION.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text[:60]!r} is not a duration: write a number and a unit, as in 10ep, 5000step, 90s or 5%"
            )
        value, unit = float(match[1]), _UNITS[match[2]]
        if not math.isfinite(value):
            raise ValueError(f"{text[:60]!r} must be a finite duration")
        if value > _MAX_VALUE:
            raise ValueError(f"{text[:60]!r} must be at most {_MAX_VALUE:g}")
        if unit == "step" and value != int(value):
            raise ValueError(f"{text!r}: a number of steps must be an integer")
        if unit == "%" and value > 100:
            raise ValueError(f"{text!r}: a percentage must be <= 100%")
        return cls(value, unit)

    def __str__(self) -> str:
        # Without an exponent, so that `parse` reads it.
        number = str(int(self.value)) if self.value == int(self.value) else f"{Decimal(repr(self.value)):f}"
        return f"{number}{self.unit}"

    def to_steps(self, steps_per_epoch: int, total_steps: int) -> int:
        """Return the duration in optimizer steps, rounded to the nearest.

        Raises ValueError for seconds.
        """
        if self.unit == "step":
            return int(self.value)
        if self.unit == "ep":
            return round(self.value * steps_per_epoch)
        if self.unit == "%":
            return round(self.value / 100 * total_steps)
        raise ValueError(f"{self} is a time; this duration must be in step, ep or %")


def format_bytes(size_bytes: float) -> str:
    """Format a size: `1536` → `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def format_count(count: float) -> str:
    """Format a count: `1200000` → `1.20 M`."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.0f}" if unit == "" else f"{count:.2f}{unit}"
        count /= 1000
    return f"{count:.2f} T"


def pluralize(number: int | str, noun: str) -> str:
    """Format a number with its noun: `1 trial`, `2 trials`; `number` may be text."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def format_epochs(epochs: float) -> str:
    """Format epochs: `2.5` → `2.5`, `2000` → `2000`."""
    return f"{epochs:.3g}" if epochs < 1000 else f"{epochs:.0f}"


def format_seconds(seconds: float) -> str:
    """Format a time: `3725` → `1:02:05`; below a minute `42.1s`."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
