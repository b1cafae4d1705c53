"""Compare several runs on one page: their figures, different settings, and overlaid curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.report.chart_data import Curve, make_curve
from dnntrain.report.format import format_metric, format_short
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.load_run import RunData
from dnntrain.report.sections import get_best_value, get_test_value
from dnntrain.report.style import TONES
from dnntrain.report.svg_chart import draw_chart
from dnntrain.report.untrusted_files import parse_number
from dnntrain.utils.units import format_bytes, format_count, format_seconds

_MAX_TOTAL_POINTS = 12_000
_MAX_DIFFERENCES = 60


def label_runs(runs: Sequence[RunData]) -> list[str]:
    """Return a name for each run: its own if it is unique, else with its folder, else with a number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.name} {run.path.name}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    return names


def render_figures(runs: Sequence[RunData], names: Sequence[str]) -> str:
    """Return a table with one row per run; the best value of each column is marked.

    All runs have the same metrics: those of the first one that has a result.
    """
    first = _find_reference_run(runs)
    headline, metric = first.headline, first.metric
    columns: list[tuple[str, Callable[[RunData], float], Callable[[float], str], int]] = [
        (
            f"test {headline.name}",
            lambda run: get_test_value(run, headline.name),
            lambda value: format_metric(headline, value),
            int(headline.sign),
        ),
        (
            f"best val {metric.name}",
            lambda run: get_best_value(run, metric)[1],
            lambda value: format_metric(metric, value),
            int(metric.sign),
        ),
        ("at step", lambda run: get_best_value(run, metric)[2], format_short, 0),
        ("training time", lambda run: parse_number(run.result.get("train_s")), format_seconds, -1),
        ("examples/s", lambda run: parse_number(run.result.get("examples_per_s")), lambda value: f"{value:,.0f}", 1),
        ("step, ms", lambda run: parse_number(run.result.get("step_ms")), lambda value: f"{value:.3g}", -1),
        (
            "peak memory",
            lambda run: parse_number(run.result.get("peak_memory_mb")),
            lambda mb: format_bytes(mb * 2**20),
            -1,
        ),
        ("parameters", lambda run: parse_number(run.result.get("parameters")), format_count, 0),
    ]
    rows = [
        [_render_run_name(index, name), escape_text(run.status)]
        for index, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    head = ["run", "status"]
    for title, get_value, format_value, sign in columns:
        values = [get_value(run) for run in runs]
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            continue
        head.append(title)
        best = max(finite, key=lambda value: sign * value) if sign and len(set(finite)) > 1 else math.nan
        for row, value in zip(rows, values, strict=True):
            cell = escape_text(format_value(value)) if math.isfinite(value) else "–"
            row.append(f'<span class="best">{cell}</span>' if value == best else cell)
    table_html = render_table(head, rows, "The best of each column is green.")
    return render_section("Figures", f'<div class="panel">{table_html}</div>')


def render_differences(runs: Sequence[RunData], names: Sequence[str]) -> str:
    """Return the configuration keys in which the runs differ."""
    configs = [dict(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing_keys = [key for key in keys if key != "run_dir" and len({config.get(key) for config in configs}) > 1]
    rows = [
        (isolate_text(key), *(isolate_text(config.get(key, "–"), 60) for config in configs))
        for key in differing_keys[:_MAX_DIFFERENCES]
    ]
    hidden_count = len(differing_keys) - len(rows)
    note = f'<p class="note">{hidden_count} more keys differ.</p>' if hidden_count > 0 else ""
    head = ["key", *(_render_run_name(index, name) for index, name in enumerate(names))]
    table_html = render_table(head, rows, "Keys of the resolved configurations.")
    return render_section("What differs", f'<div class="panel">{table_html}{note}</div>' if rows else "")


def render_overlays(runs: Sequence[RunData], names: Sequence[str]) -> str:
    """Return the curves of all runs by step, and the validation metric by time to compare speed."""
    max_points = max(40, _MAX_TOTAL_POINTS // (len(runs) * 5))

    def draw(title: str, split: str, metric: MetricInfo, by_time: bool = False) -> str:
        curves = [
            _make_run_curve(run, split, metric.name, label, index, by_time)
            for index, (run, label) in enumerate(zip(runs, names, strict=True))
        ]
        if by_time:
            return draw_chart(
                title, curves, metric=metric, x_name="time", format_x=format_seconds, max_points=max_points
            )
        return draw_chart(
            title, curves, metric=metric, max_points=max_points, from_zero=metric.name == "examples_per_s"
        )

    metric = _find_reference_run(runs).metric
    charts = [
        draw(f"Validation {metric.name} by time", "val", metric, by_time=True),
        draw(f"Validation {metric.name} by step", "val", metric),
        draw("Validation loss", "val", LOSS) if metric != LOSS else "",
        draw("Training loss", "train", LOSS),
        draw("Learning rate", "train", MetricInfo("lr")),
        draw("Examples per second", "train", MetricInfo("examples_per_s")),
    ]
    body = "".join(figure for figure in charts if figure)
    return render_section(
        "Curves", f'<div class="charts">{body}</div>' if body else '<p class="note">No metrics were written.</p>'
    )


def _find_reference_run(runs: Sequence[RunData]) -> RunData:
    """Return the first run whose metric chose its best weights, else the first one."""
    return next((run for run in runs if "metric" in run.result), runs[0])


def _make_run_curve(run: RunData, split: str, name: str, label: str, index: int, by_time: bool) -> Curve:
    return make_curve(
        label,
        run.get_series(split, name),
        index % len(TONES),
        by_time=by_time,
        dashed=index >= len(TONES),
        noisy=split == "train" and name != "lr",
    )


def _render_run_name(index: int, name: str) -> str:
    dashed = " dashed" if index >= len(TONES) else ""
    return f'<i class="swatch t{index % len(TONES)}{dashed}"></i>{isolate_text(name, 60)}'
