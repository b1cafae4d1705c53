"""Hold what a comparison found, write it as JSON, and describe it in words."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnntrain.protocols import MetricInfo
from dnntrain.prove.distillation import Distillation
from dnntrain.prove.pairs import Pair
from dnntrain.prove.verdict import Rules, Verdict
from dnntrain.utils.units import pluralize


@dataclass(frozen=True)
class ProveResult:
    """A comparison of B with A.

    labels          the words of A and B, or their folders
    verdict         the judgment of all pairs
    lines           for each pair the two lines that train its runs; empty for finished sets of runs
    test_set_error  standard error of the mean difference over test sets of this size, None if unknown
    notes           remarks for the reader
    distillation    the diagnosis if B is distilled from a teacher
    """

    labels: tuple[str, str]
    metric: MetricInfo
    rules: Rules
    pairs: tuple[Pair, ...]
    verdict: Verdict
    lines: tuple[tuple[str, str], ...] = ()
    test_set_error: float | None = None
    notes: tuple[str, ...] = ()
    distillation: Distillation | None = None

    def as_json(self) -> dict[str, Any]:
        rows = []
        for index, pair in enumerate(self.pairs):
            row: dict[str, Any] = {
                "pair": pair.number,
                "seeds": list(pair.seeds),
                "a": pair.values[0],
                "b": pair.values[1],
                "difference": pair.difference,
                "e_value": self.verdict.e_values[index],
                "runs": [str(run) for run in pair.runs],
            }
            if self.lines:
                row["lines"] = list(self.lines[index])
            rows.append(row)
        return {
            **self.verdict.as_json(),
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "alpha": self.rules.alpha,
            "margin": self.rules.margin,
            "assume": self.rules.assume,
            "max_pairs": self.rules.max_pairs,
            "a": self.labels[0],
            "b": self.labels[1],
            "test_set_error": self.test_set_error,
            "per_pair": rows,
            "notes": list(self.notes),
            "distillation": None if self.distillation is None else self.distillation.as_json(),
        }


def format_line(words: Sequence[str]) -> str:
    """Return the line that trains one run of a pair."""
    return shlex.join(["dnntrain", *words])


def format_difference(metric: MetricInfo, value: float) -> str:
    """Format a difference of a metric: `+0.32 points` for shares, else with the metric's unit."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if metric.is_share:
        return f"{100 * value:+.2f} points"
    return f"{value:+.4g} {metric.unit}".rstrip()


def describe_verdict(result: ProveResult) -> list[str]:
    """Return the verdict in sentences, the answer first."""
    verdict, metric, rules = result.verdict, result.metric, result.rules
    mean = format_difference(metric, verdict.mean_difference) if result.pairs else "unknown"
    pairs = pluralize(len(result.pairs), "pair")
    if verdict.verdict in ("better", "worse"):
        answer = f"B is {verdict.verdict} than A in {metric.name}: {mean} on average over {pairs}."
        if rules.margin is not None and abs(verdict.mean_difference) <= rules.margin:
            answer += f" The difference is within the margin of {format_difference(metric, rules.margin)}."
    elif verdict.verdict == "equivalent":
        assert rules.margin is not None
        margin = format_difference(metric, rules.margin).lstrip("+")
        answer = f"A and B are equivalent in {metric.name}: their difference is within {margin} ({pairs})."
    else:
        answer = f"Undecided after {pairs}: {mean} on average."
    lines = [answer]
    low, high = (format_difference(metric, value) for value in (verdict.interval.low, verdict.interval.high))
    confidence = f"{100 * (1 - rules.alpha):g} %"
    form = "symmetric form" if rules.assume == "symmetric" else "normal form"
    lines.append(
        f"Evidence: e-value {verdict.e_value:.3g} ({form}); {1 / rules.alpha:g} decides. "
        f"The normal form gives {verdict.normal_e_value:.3g}."
    )
    if math.isfinite(verdict.interval.low) or math.isfinite(verdict.interval.high):
        lines.append(f"{confidence} interval of the difference, valid after any number of pairs: {low} to {high}.")
    elif len(result.pairs) < 6:
        lines.append("Fewer than six pairs cannot bound the difference.")
    if verdict.verdict == "undecided":
        lines.append(_describe_outlook(verdict))
    if result.test_set_error is not None:
        error = format_difference(metric, result.test_set_error).lstrip("+")
        lines.append(f"Another test set of this size would move the mean difference by about {error} (standard error).")
    diagnosis = [] if result.distillation is None else result.distillation.describe()
    return [*lines, *diagnosis, *result.notes]


def _describe_outlook(verdict: Verdict) -> str:
    if verdict.is_futile:
        return "More pairs would hardly decide: the search is futile."
    if verdict.pairs_needed is None:
        return "The pairs so far do not say how many are needed."
    return f"A decision would need about {verdict.pairs_needed} pairs, if the next are like these."
