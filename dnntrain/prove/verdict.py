"""Turn paired differences into a verdict: better, worse, equivalent or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dnntrain.utils.evidence import E_PROCESSES, EffectInterval, compute_e_values, compute_effect_interval

VerdictName = Literal["better", "worse", "equivalent", "undecided"]

#: The exit code of each verdict with --exit-code.
EXIT_CODES: dict[str, int] = {"better": 0, "worse": 10, "equivalent": 11, "undecided": 12}

#: Continuations that are drawn to foresee how many pairs are needed, and their longest length.
_NUM_CONTINUATIONS = 400
_MAX_FORESEEN_PAIRS = 400
#: With fewer pairs nothing is foreseen.
_MIN_PAIRS_TO_FORESEE = 4
#: A search is futile if fewer of its continuations decide within --max-pairs.
_FUTILE_SHARE = 0.02
_MIN_PAIRS_FOR_FUTILE = 8


@dataclass(frozen=True)
class Rules:
    """How pairs are judged.

    sign       1 if a larger value of the metric is better, else -1
    alpha      the largest probability of a wrong "better" or "worse"
    margin     differences within it count as none; None: nothing is called equivalent
    max_pairs  the number of pairs after which the search ends
    assume     the e-process that decides: symmetric or normal
    """

    sign: float = 1.0
    alpha: float = 0.05
    margin: float | None = None
    max_pairs: int = 30
    assume: str = "symmetric"


@dataclass(frozen=True)
class Verdict:
    """The judgment after some pairs.

    verdict          better or worse: B than A; equivalent: within the margin; undecided
    e_value          the deciding e-process when it decided, else after the last pair; 1/alpha decides
    e_values         the deciding e-process after each pair
    normal_e_value   the last value of the normal form, for comparison
    mean_difference  mean of B - A, in the unit of the metric
    interval         differences that are not rejected, valid after any number of pairs
    pairs_needed     the foreseen number of pairs for a decision; None: unknown, or too many
    is_futile        more pairs would hardly decide
    """

    verdict: VerdictName
    e_value: float
    e_values: tuple[float, ...]
    normal_e_value: float
    mean_difference: float
    interval: EffectInterval
    pairs_needed: int | None = None
    is_futile: bool = False

    @property
    def is_final(self) -> bool:
        """Whether another pair is not needed."""
        return self.verdict != "undecided" or self.is_futile

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "e_value": self.e_value,
            "pairs": len(self.e_values),
            "mean_difference": self.mean_difference if math.isfinite(self.mean_difference) else None,
            "interval": self.interval.as_json(),
            "e_values": list(self.e_values),
            "normal_e_value": self.normal_e_value,
            "pairs_needed": self.pairs_needed,
            "futile": self.is_futile,
        }


def judge_differences(differences: Sequence[float], rules: Rules) -> Verdict:
    """Return the verdict on differences B - A in the order of the pairs.

    The first pair after which the evidence reaches 1/alpha decides; later ones do not revoke it.
    """
    e_values = compute_e_values(differences, rules.assume)
    interval = compute_effect_interval(differences, rules.alpha, rules.assume)
    decided_at = next((number for number, value in enumerate(e_values, 1) if value >= 1 / rules.alpha), None)
    verdict: VerdictName = "undecided"
    if decided_at is not None:
        gain = rules.sign * sum(differences[:decided_at])
        verdict = "better" if gain > 0 else "worse"
    elif rules.margin is not None and interval.is_within(rules.margin):
        verdict = "equivalent"
    pairs_needed, share = (
        foresee_pairs(differences, rules)
        if verdict == "undecided" and len(differences) >= _MIN_PAIRS_TO_FORESEE
        else (None, 1.0)
    )
    is_futile = verdict == "undecided" and len(differences) >= _MIN_PAIRS_FOR_FUTILE and share < _FUTILE_SHARE
    return Verdict(
        verdict,
        e_values[decided_at - 1] if decided_at is not None else e_values[-1] if e_values else 1.0,
        tuple(e_values),
        compute_e_values(differences, "normal")[-1] if differences else 1.0,
        float(np.mean(differences)) if differences else math.nan,
        interval,
        pairs_needed,
        is_futile,
    )


def foresee_pairs(differences: Sequence[float], rules: Rules) -> tuple[int | None, float]:
    """Return the median number of pairs for a decision, and the share that decides within max_pairs.

    The sequence is continued with differences drawn from it, to 400 pairs. The number is None if the
    median exceeds them. The result is deterministic.
    """
    values = np.asarray(differences, dtype=np.float64)
    generator = np.random.default_rng(len(values))
    length = max(_MAX_FORESEEN_PAIRS, len(values))
    drawn = generator.choice(values, (length, _NUM_CONTINUATIONS))
    drawn[: len(values)] = values[:, None]
    process = E_PROCESSES[rules.assume]
    has_decided = np.maximum.accumulate(process(drawn), axis=0) >= 1 / rules.alpha
    if rules.margin is not None:
        # An interval is within the margin if a shift by the margin is rejected on both sides.
        low, high = (np.maximum.accumulate(process(drawn - shift), axis=0) for shift in (-rules.margin, rules.margin))
        has_decided |= (low >= 1 / rules.alpha) & (high >= 1 / rules.alpha)
    num_pairs = np.where(has_decided.any(axis=0), has_decided.argmax(axis=0) + 1, length + 1)
    median = int(np.median(num_pairs))
    share = float(has_decided[: max(rules.max_pairs, len(values))].any(axis=0).mean())
    return (median if median <= length else None), share
