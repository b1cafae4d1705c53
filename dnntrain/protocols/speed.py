"""Settings that may make training faster, and how far they change its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SpeedGrade(Enum):
    """How far a setting changes the numbers of a run.

    BITWISE      not at all
    ROUNDING     the order of additions: losses agree to 1e-5
    STATISTICAL  the arithmetic or the method: only the final accuracy can be compared
    """

    BITWISE = "bitwise"
    ROUNDING = "rounding"
    STATISTICAL = "statistical"


@dataclass(frozen=True)
class SpeedAttempt:
    """Overrides that may make a run faster.

    alternatives  other overrides of the same speed that lead to other numbers, to try if these lose
                  accuracy
    """

    words: tuple[str, ...]
    grade: SpeedGrade
    alternatives: tuple[tuple[str, ...], ...] = ()

    @property
    def text(self) -> str:
        """The overrides as they are typed."""
        return " ".join(self.words)


@dataclass(frozen=True)
class SpeedSetting:
    """A setting with values that may be faster than its own, in the order in which they are tried.

    companions  overrides that each value comes with; further groups of them are alternatives, of the
                same speed
    """

    key: str
    grade: SpeedGrade
    values: tuple[str, ...]
    companions: tuple[tuple[str, ...], ...] = ((),)

    def make_attempt(self, value: str) -> SpeedAttempt:
        """Return the attempt of one of the values."""
        lines = [(f"{self.key}={value}", *words) for words in self.companions]
        return SpeedAttempt(lines[0], self.grade, tuple(lines[1:]))


@dataclass(frozen=True)
class SpeedFacts:
    """The facts about a run that a choice needs to list its settings.

    cores        cores of this process
    is_resident  whether the data is in memory
    is_float32   whether all numbers are float32
    ranks        ranks of the layout
    workers      reading processes of a rank
    """

    cores: int
    is_resident: bool
    is_float32: bool
    ranks: int = 1
    workers: int = 0
