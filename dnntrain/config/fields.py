"""Define the types of configuration fields.

The annotations of a choice's dataclass may use these names only:

    alpha: Positive = 0.2                                   # a number above 0
    schedule: Literal["linear", "cosine"] = "cosine"        # one of
    warmup: Duration = Duration(5, "%")                     # 10ep, 500step, 5%
    patience: Annotated[int, Range(at_least=1)] = 5

The type checker reads an annotation as a type. The decoder reads it as the rule that a value must
keep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from dnntrain.utils.units import Duration

__all__ = [
    "Annotated",
    "Arguments",
    "Device",
    "Duration",
    "Fraction",
    "Literal",
    "NonNegative",
    "NonNegativeInt",
    "Positive",
    "PositiveDuration",
    "PositiveInt",
    "Probability",
    "Range",
    "RefusedWords",
    "RunDirectoryName",
    "RunDuration",
    "RunName",
    "Seconds",
    "Seed",
    "Text",
    "Units",
]


class Arguments:
    """Keyword arguments of code that is not part of dnntrain, by name: plain values, lists, mappings."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values = dict(values or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arguments) and self.values == other.values

    def __hash__(self) -> int:
        return hash(repr(sorted(self.values.items())))

    def __repr__(self) -> str:
        return f"Arguments({self.values})"


class Range(NamedTuple):
    """Bounds of a number. Infinite and not-a-number values are always invalid."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf

    def contains(self, value: float) -> bool:
        """Return whether `value` is finite and within the bounds."""
        return (
            abs(value) < math.inf  # not math.isfinite, which rejects integers of 400 digits with OverflowError
            and value > self.above
            and value >= self.at_least
            and value < self.below
            and value <= self.at_most
        )

    def __str__(self) -> str:
        bounds = [
            f"above {self.above:g}" if math.isfinite(self.above) else "",
            f"at least {self.at_least:g}" if math.isfinite(self.at_least) else "",
            f"below {self.below:g}" if math.isfinite(self.below) else "",
            f"at most {self.at_most:g}" if math.isfinite(self.at_most) else "",
        ]
        return " and ".join(bound for bound in bounds if bound) or "finite"


class Text(NamedTuple):
    """A rule for text: a regular expression that the whole text must match.

    The rule in words follows "is not" in a message.
    """

    pattern: str
    rule: str
    at_most: int = 4096

    def matches(self, value: str) -> bool:
        """Return whether the whole of `value` matches and is short enough."""
        return len(value) <= self.at_most and re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.rule


class RefusedWords(NamedTuple):
    """Words that a user may expect in a Literal that does not support them.

    `reason` follows the word in a message, and names the word to use instead.
    """

    words: tuple[str, ...]
    reason: str


class Units:
    """The units that a duration may have: `Units("ep", "step", "s")`."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __str__(self) -> str:
        examples = {"ep": "10ep", "step": "5000step", "s": "90s", "%": "5%"}
        *first_examples, last = [examples[name] for name in self.names]
        return f"{', '.join(first_examples)} or {last}" if first_examples else last


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, below=1)]
Probability = Annotated[float, Range(at_least=0, at_most=1)]
PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
PositiveDuration = Annotated[Duration, Range(above=0)]
RunDuration = Annotated[Duration, Range(above=0), Units("ep", "step", "s")]
Seconds = Annotated[Duration, Range(above=0), Units("s")]
Seed = Annotated[int, Range(at_least=0, below=2**63)]
RunName = Annotated[
    str, Text(r"[^\W_][\w.+@=, -]*", "a name of letters, digits and . _ - + @ = of at most 100 characters", 100)
]
Device = Annotated[str, Text(r"auto|cpu|(cuda|xpu)(:\d{1,3})?|mps", "one of auto, cpu, cuda, cuda:N, mps")]
RunDirectoryName = Annotated[str, Text(r"(?![\s/.]*$)[^\0-\x1f\x7f]+", "the path of a folder of its own")]

#: The namespace in which annotations and defaults of choices are evaluated; see `schema.py`.
NAMESPACE: dict[str, Any] = {name: globals()[name] for name in __all__} | {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "tuple": tuple,
    "None": None,
    "True": True,
    "False": False,
}
