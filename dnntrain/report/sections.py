"""Render the figures, charts, events and footer of a single run's report."""

from __future__ import annotations

import math
from typing import Any

from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.report.chart_data import Curve, Mark, make_curve
from dnntrain.report.facts import (
    _format_flops,
    _format_length,
    _format_megabytes,
    _format_memory_estimate,
    _format_parameters,
    _format_speed,
    _format_step_ms,
)
from dnntrain.report.format import format_metric, format_short
from dnntrain.report.html import escape_text, isolate_text, render_section
from dnntrain.report.load_run import RunData
from dnntrain.report.svg_chart import draw_chart
from dnntrain.report.untrusted_files import parse_number
from dnntrain.utils.units import format_seconds

#: Columns that are set, not measured: drawn without smoothing.
_SETTINGS = ("lr", "batch_size", "seq_len", "momentum", "weight_decay", "drop_rate")
_KNOWN_COLUMNS = {"loss", "examples_per_s", *_SETTINGS}
_LEARNING_RATE = MetricInfo("lr")


def render_cards(run: RunData) -> str:
    """Return the main figures, the most important first."""
    result = run.result
    metric, best, best_step = get_best_value(run)
    test = get_test_value(run, run.headline.name)
    test_label = f"Test {run.headline.name}"
    entries = [
        (test_label, format_metric(run.headline, test) if math.isfinite(test) else "", _make_test_note(run)),
        (
            f"Best val {metric.name}",
            format_metric(metric, best) if math.isfinite(best) else "",
            f"step {format_short(best_step)}",
        ),
        ("Training time", _format_duration(result.get("train_s")), _format_length(run)),
        ("Examples a second", _format_speed(result.get("examples_per_s")), _format_step_ms(result)),
        ("Peak memory", _format_megabytes(result.get("peak_memory_mb")), _format_memory_estimate(run)),
        ("Parameters", _format_parameters(run), _format_flops(run)),
    ]
    body = "".join(
        f'<div class="card{" main" if label == test_label else ""}"><dt>{escape_text(label)}</dt>'
        f"<dd>{escape_text(value)}{f'<small>{escape_text(note)}</small>' if note else ''}</dd></div>"
        for label, value, note in entries
        if value
    )
    return f'<dl class="cards">{body}</dl>' if body else ""


def get_best_value(run: RunData, metric: MetricInfo | None = None) -> tuple[MetricInfo, float, float]:
    """Return (metric, best validation value, its step) from result.json, else from the metrics.

    `metric` is by default the one that chose the best weights. NaN if there is none.
    """
    metric = metric or run.metric
    value, step = parse_number(run.result.get("best")), parse_number(run.result.get("best_step"))
    if math.isfinite(value) and metric.name == run.metric.name:
        return metric, value, step
    points = run.get_series("val", metric.name).get_finite_points()
    if not points:
        return metric, math.nan, math.nan
    step, value = max(points, key=lambda point: metric.sign * point[1])
    return metric, value, step


def get_test_value(run: RunData, name: str) -> float:
    """Return a figure of the test split from evaluation.json, else from the metrics; NaN if there is none."""
    value = parse_number(run.evaluation.get(name)) if run.evaluation.get("split", "test") == "test" else math.nan
    points = run.get_series("test", name).get_finite_points()
    return value if math.isfinite(value) or not points else points[-1][1]


def render_charts(run: RunData) -> str:
    """Return all curves of the run; events are marked and numbered as in the list below them."""
    marks = _make_marks(run)
    metric, best, best_step = get_best_value(run)
    best_marks = (
        [Mark(best_step, "★", f"best val {metric.name}: {format_metric(metric, best)}")]
        if math.isfinite(best_step)
        else []
    )
    losses = [_make_run_curve(run, "train", "loss", "train", 0), _make_run_curve(run, "val", "loss", "val", 1)]
    task_metrics = [info for info in run.metrics if info != LOSS]
    figures = [
        draw_chart("Loss", losses, metric=LOSS, marks=marks + (best_marks if metric == LOSS else [])),
        *(
            draw_chart(
                info.name.replace("_", " ").capitalize(),
                [
                    _make_run_curve(run, "train", info.name, "train", 0),
                    _make_run_curve(run, "val", info.name, "val", 1),
                ],
                metric=info,
                marks=marks + (best_marks if metric == info else []),
            )
            for info in task_metrics
        ),
        draw_chart(
            "Learning rate",
            [_make_run_curve(run, "train", "lr", "learning rate", 2)],
            metric=_LEARNING_RATE,
            marks=marks,
        ),
        *(
            draw_chart(
                name.replace("_", " ").capitalize(),
                [_make_run_curve(run, "train", name, name, 3)],
                marks=marks,
                from_zero=True,
            )
            for name in ("momentum", "weight_decay", "drop_rate", "seq_len")
        ),
        draw_chart(
            "Batch size",
            [_make_run_curve(run, "train", "batch_size", "examples of a step", 4)],
            marks=marks,
            from_zero=True,
        ),
        draw_chart(
            "Examples per second",
            [_make_run_curve(run, "train", "examples_per_s", "training", 5)],
            marks=marks,
            from_zero=True,
        ),
    ]
    nonempty_figures = [figure for figure in [*figures, *_draw_other_columns(run, marks)] if figure]
    if not nonempty_figures:
        return render_section("Curves", '<p class="note">No metrics were written.</p>')
    return render_section("Curves", f'<div class="charts">{"".join(nonempty_figures)}</div>{_render_events(run)}')


def _draw_other_columns(run: RunData, marks: list[Mark]) -> list[str]:
    """Return the charts of columns that methods have added, six at most."""
    names = {name for split, name in run.series if split in ("train", "val")}
    other_names = sorted(names - _KNOWN_COLUMNS - {info.name for info in run.metrics if info != LOSS})
    return [
        draw_chart(
            name,
            [_make_run_curve(run, "train", name, "train", 0), _make_run_curve(run, "val", name, "val", 1)],
            marks=marks,
        )
        for name in other_names[:6]
    ]


def _make_run_curve(run: RunData, split: str, name: str, label: str, tone: int) -> Curve:
    return make_curve(label, run.get_series(split, name), tone, noisy=split == "train" and name not in _SETTINGS)


def _make_marks(run: RunData) -> list[Mark]:
    return [Mark(event.step, str(index), event.reason or event.name) for index, event in enumerate(run.events[:20], 1)]


def _render_events(run: RunData) -> str:
    if not run.events:
        return ""
    items = "".join(
        f"<li><b>{index}</b>step {format_short(event.step)}, {escape_text(event.name)}: "
        f"{escape_text(event.reason or '-')}</li>"
        for index, event in enumerate(run.events, 1)
    )
    return f'<h2>Decisions</h2><ol class="events">{items}</ol>'


def render_footer(*runs: RunData) -> str:
    """Return the source of the report, and the skipped content."""
    lines = []
    for run in runs:
        source = f"{run.rows:,} rows of metrics · {isolate_text(run.path, 300)}"
        lines.append(f"<p>{'<br>'.join((source, *map(escape_text, run.notes)))}</p>")
    return f"<footer>{''.join(lines)}</footer>"


def _make_test_note(run: RunData) -> str:
    loss, count = get_test_value(run, "loss"), parse_number(run.evaluation.get("examples"))
    parts = [f"loss {format_short(loss)}" if math.isfinite(loss) else "", f"{count:,.0f} examples" if count > 0 else ""]
    return ", ".join(part for part in parts if part)


def _format_duration(value: Any) -> str:
    seconds = parse_number(value)
    return format_seconds(seconds) if math.isfinite(seconds) and seconds >= 0 else ""
