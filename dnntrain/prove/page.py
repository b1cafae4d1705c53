"""Draw the evidence: report.html in the folder of the pairs."""

from __future__ import annotations

from pathlib import Path

from dnntrain.protocols import MetricInfo
from dnntrain.prove.result import ProveResult, describe_verdict, format_difference
from dnntrain.report.chart_data import Curve
from dnntrain.report.format import format_metric
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.page import render_page
from dnntrain.report.svg_chart import draw_chart
from dnntrain.utils.files import write_bytes

_TONES = {"better": "good", "worse": "bad", "equivalent": "good", "undecided": ""}


def write_prove_report(results: dict[str, ProveResult], path: Path) -> Path:
    """Write one page with a section for each comparison, and return its path."""
    title = "Is B better than A?" if len(results) == 1 else f"{len(results)} comparisons"
    heading = f'<header><p class="kicker">dnntrain prove</p><div class="title"><h1>{title}</h1></div></header>'
    write_bytes(
        path, render_page(title, [heading, *(_render_result(name, result) for name, result in results.items())])
    )
    return path


def _render_result(name: str, result: ProveResult) -> str:
    verdict = result.verdict
    pill = f'<span class="pill {_TONES[verdict.verdict]}">{verdict.verdict}</span>'
    labels = "".join(
        f"<p>{side}: <code>{isolate_text(label or 'as configured', 200)}</code></p>"
        for side, label in zip("AB", result.labels, strict=True)
    )
    sentences = "".join(f"<p>{escape_text(line, 400)}</p>" for line in describe_verdict(result))
    rows = [
        [
            str(pair.number),
            " / ".join(map(str, dict.fromkeys(pair.seeds))),
            *(escape_text(format_metric(result.metric, value)) for value in pair.values),
            escape_text(format_difference(result.metric, pair.difference)),
            f"{e_value:.3g}",
        ]
        for pair, e_value in zip(result.pairs, verdict.e_values, strict=True)
    ]
    table = render_table(
        ["pair", "seed", "A", "B", "B − A", "e-value"],
        rows,
        f"{result.metric.name} of each pair; both runs share the seed.",
    )
    body = (
        f'<div class="panel">{pill}{labels}{sentences}</div><div class="charts">{_draw_evidence(result)}'
        f"{_draw_differences(result)}</div>" + (f'<div class="panel">{table}</div>' if table else "")
    )
    return render_section(name, body)


def _draw_evidence(result: ProveResult) -> str:
    """Return the e-value after each pair, beside the value that decides."""
    points = tuple((float(pair), value) for pair, value in enumerate(result.verdict.e_values, 1))
    if not points:
        return ""
    limit = 1 / result.rules.alpha
    limit_points = ((1.0, limit), (float(max(len(points), 2)), limit))
    curves = [
        Curve("evidence", (points,), 0),
        Curve(f"{limit:g} decides", (limit_points,), 1, dashed=True),
    ]
    return draw_chart("Evidence", curves, metric=MetricInfo("e-value"), x_name="pair")


def _draw_differences(result: ProveResult) -> str:
    points = tuple((float(pair.number), pair.difference) for pair in result.pairs)
    if not points:
        return ""
    zero = ((1.0, 0.0), (float(max(len(points), 2)), 0.0))
    metric = MetricInfo("difference", result.metric.higher_is_better, result.metric.unit)
    return draw_chart(
        f"Difference in {result.metric.name}, B − A",
        [Curve("B − A", (points,), 0), Curve("no difference", (zero,), 7, dashed=True)],
        metric=metric,
        x_name="pair",
    )
