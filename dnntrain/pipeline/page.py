"""Write report.html of a pipeline: one table of its models, and one picture of accuracy and latency."""

from __future__ import annotations

from pathlib import Path

from dnntrain.pipeline.listing import read_listing
from dnntrain.pipeline.points import Measured, Measurements, Point, find_pareto, format_interval, format_latency
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.page import render_page
from dnntrain.report.scatter_chart import ScatterPoint, draw_scatter
from dnntrain.utils.files import write_bytes
from dnntrain.utils.units import format_bytes, format_seconds

PAGE_FILE = "report.html"


def write_pipeline_report(folder: Path, measurements: Measurements, path: Path | None = None) -> Path:
    """Write the page of the pipeline in `folder`, by default there, and return its path."""
    listing = read_listing(folder)
    name = str(listing.get("name", folder.name))
    path = folder / PAGE_FILE if path is None else path
    digest = listing.get("digest")
    heading = (
        f'<header><p class="kicker">dnntrain pipeline</p><div class="title"><h1>{isolate_text(name)}</h1></div>'
        f'<p class="about">{_describe_machine(measurements)}</p></header>'
    )
    footer = f"<footer><p>final digest {escape_text(digest or 'unknown')}<br>{isolate_text(folder, 300)}</p></footer>"
    parts = [heading, _render_table(measurements), _render_pictures(measurements), footer]
    write_bytes(path, render_page(name, parts))
    return path


def _describe_machine(measurements: Measurements) -> str:
    machine = measurements.machine
    return f"timed on {escape_text(machine.get('cpu', 'an unknown processor'))}, {escape_text(machine.get('threads'))} threads"


def _render_table(measurements: Measurements) -> str:
    metric = measurements.metric
    best = {point.name for batch in measurements.batches for point in find_pareto(measurements, batch)}
    head = [
        "model",
        "form",
        f"test {escape_text(metric.name)}",
        *(f"latency, batch {batch}" for batch in measurements.batches),
        *(f"faster, batch {batch}" for batch in measurements.batches),
        "size",
        "smaller",
        "training",
        "with its sources",
        "seeds",
    ]
    first = measurements.points[0]
    rows = [_make_row(measurements, point, first, point.name in best) for point in measurements.points]
    note = (
        f"Intervals hold the true value in 95 % of cases. “Faster” and “smaller” are relative to {first.name}. "
        "No other model is both better and faster than a green one."
    )
    return render_section("Models", f'<div class="panel">{render_table(head, rows, note)}</div>')


def _make_row(measurements: Measurements, point: Point, first: Point, is_best: bool) -> list[str]:
    name = isolate_text(point.name)
    speedups = [
        first.latency_ms[batch].value / max(point.latency_ms[batch].value, 1e-12) for batch in measurements.batches
    ]
    return [
        f'<span class="best">{name}</span>' if is_best else name,
        escape_text(point.form),
        escape_text(format_interval(measurements.metric, point.metric)),
        *(escape_text(format_latency(point.latency_ms[batch])) for batch in measurements.batches),
        *(f"{speedup:.2f}×" for speedup in speedups),
        escape_text(format_bytes(point.size_bytes)),
        f"{first.size_bytes / max(point.size_bytes, 1):.1f}×",
        escape_text(format_seconds(point.train_s)),
        escape_text(format_seconds(point.total_s)),
        str(point.seeds),
    ]


def _render_pictures(measurements: Measurements) -> str:
    metric = measurements.metric
    charts = []
    for batch in measurements.batches:
        points = [_make_scatter_point(point, batch) for point in measurements.points]
        front = [_make_scatter_point(point, batch) for point in find_pareto(measurements, batch)]
        title = f"Test {metric.name} and latency at batch {batch}"
        charts.append(draw_scatter(title, points, front, metric, "ms"))
    return render_section("Which model to take", f'<div class="charts">{"".join(charts)}</div>')


def _make_scatter_point(point: Point, batch: int) -> ScatterPoint:
    latency: Measured = point.latency_ms[batch]
    return ScatterPoint(
        point.name,
        latency.value,
        (latency.low, latency.high),
        point.metric.value,
        (point.metric.low, point.metric.high),
    )
