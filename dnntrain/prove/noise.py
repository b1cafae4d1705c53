"""Say which differences between runs of a comparison are beyond noise: the section of its report.

Runs that differ in their seed only are one variant. Each variant is compared with the first, pair by
pair of a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import DnntrainError
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import DEFAULT_SHARE_MARGIN, choose_split, read_pair
from dnntrain.prove.result import format_difference
from dnntrain.prove.verdict import Rules, Verdict, judge_differences
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.load_run import read_run
from dnntrain.utils.evidence import select_by_e_bh
from dnntrain.utils.sealed_json import read_intact_json
from dnntrain.utils.units import pluralize

#: The most variants of the section.
_MAX_ROWS = 40


@dataclass(frozen=True)
class Variant:
    """Finished runs with the same settings, by their seeds."""

    name: str
    runs: dict[int, Path]


def render_noise(paths: Sequence[Path], alpha: float = 0.05) -> str:
    """Return a section with a verdict on each variant against the first; empty if there is one variant.

    All verdicts of "better" and "worse" hold together at `alpha` by e-BH.
    """
    variants = group_variants(paths)
    if len(variants) < 2:
        return ""
    metric = read_run(paths[0]).headline
    margin = DEFAULT_SHARE_MARGIN if metric.is_share else None
    rules = Rules(metric.sign, alpha, margin)
    judged = [(variant, *_judge_variant(variants[0], variant, metric, rules)) for variant in variants[1:]]
    kept = select_by_e_bh([verdict.e_value for _, verdict, _ in judged], alpha)
    rows = [
        _make_row(variant, verdict, count, is_kept, metric)
        for (variant, verdict, count), is_kept in zip(judged, kept, strict=True)
    ][:_MAX_ROWS]
    head = ["runs", "beyond noise?", "pairs", "mean difference", "interval", "e-value"]
    caption = (
        f"{metric.name} against {variants[0].name}, by pairs of runs with the same seed. {1 / alpha:g} decides; "
        "dnntrain prove trains the pairs that are missing."
        + (f" {len(judged) - len(rows)} more variants are not shown." if len(judged) > len(rows) else "")
    )
    return render_section("Beyond noise?", f'<div class="panel">{render_table(head, rows, caption)}</div>')


def group_variants(paths: Sequence[Path]) -> list[Variant]:
    """Return the variants among finished runs, in order. A run that cannot be read, or is not done, is left out."""
    runs: dict[str, dict[int, Path]] = {}
    names: dict[str, str] = {}
    for path in paths:
        if read_intact_json(path / "result.json").get("status") != "done":
            continue
        try:
            config: dict[str, Any] = read_saved_config(path)
        except DnntrainError:
            continue
        digest = compute_digest({**config, "seed": 0})
        names.setdefault(digest, path.name)
        runs.setdefault(digest, {}).setdefault(int(config["seed"]), path)
    return [Variant(names[digest], by_seed) for digest, by_seed in runs.items()]


def _judge_variant(first: Variant, second: Variant, metric: MetricInfo, rules: Rules) -> tuple[Verdict, int]:
    """Return the verdict on the seeds that both have, and their number."""
    runs = [(first.runs[seed], second.runs[seed]) for seed in sorted(first.runs.keys() & second.runs.keys())]
    differences = []
    try:
        split = choose_split([run for pair in runs for run in pair], metric)
    except DnntrainError:
        return judge_differences([], rules), 0
    for pair in runs:
        try:
            value, other = read_pair(pair, metric, trust=False, split=split)
        except DnntrainError:
            continue
        differences.append(other - value)
    return judge_differences(differences, rules), len(differences)


def _make_row(variant: Variant, verdict: Verdict, count: int, is_kept: bool, metric: MetricInfo) -> list[str]:
    is_decided = verdict.verdict in ("better", "worse") and is_kept
    if is_decided:
        answer, tone = f"yes: {verdict.verdict}", "good" if verdict.verdict == "better" else "bad"
    elif verdict.verdict == "equivalent":
        answer, tone = "no: equivalent", ""
    else:
        needed = f", about {pluralize(verdict.pairs_needed, 'pair')} needed" if verdict.pairs_needed else ""
        answer, tone = f"not shown{needed}", ""
    low, high = (format_difference(metric, value) for value in (verdict.interval.low, verdict.interval.high))
    return [
        isolate_text(variant.name, 60),
        f'<span class="pill {tone}">{escape_text(answer)}</span>',
        str(count),
        escape_text(format_difference(metric, verdict.mean_difference)) if count else "–",
        escape_text(f"{low} to {high}") if count >= 6 else "–",
        f"{verdict.e_value:.3g}",
    ]
