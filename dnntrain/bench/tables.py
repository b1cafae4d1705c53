"""Write measurements as text, CSV and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from dnntrain.bench.measure import BenchResult
from dnntrain.bench.statistics import CONFIDENCE, MIN_VALUES, Interval, compute_percentiles
from dnntrain.errors import ConfigError
from dnntrain.utils.csv_text import format_csv
from dnntrain.utils.files import write_bytes, write_text
from dnntrain.utils.output_file import check_output_file
from dnntrain.utils.units import format_bytes

_PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def format_table(results: Sequence[BenchResult]) -> str:
    """Return a table with one line per candidate; ratios are to the first one."""
    base = results[0]
    batches = list(base.rates)
    head = ["model", _get_metric_name(results), "size", "load", "memory", "p50 ms", "p95", "p99"]
    head += [word for batch in batches for word in (f"{base.unit}/s at {batch}", "ratio")]
    rows = [head]
    for result in results:
        latency = compute_percentiles(result.latencies[batches[0]])
        row = [
            result.name,
            "" if result.metric is None else f"{result.metric.value:.4f}",
            format_bytes(result.load_info["size_bytes"]),
            f"{result.load_info['load_s']:.2f} s",
            format_bytes(result.peak_memory_bytes),
            *(f"{1000 * value:.3g}" for value in latency.values()),
        ]
        for batch in batches:
            rate, ratio = result.throughput(batch), result.ratio(base, batch)
            row += [
                f"{rate.median:.0f} ({rate.low:.0f}-{rate.high:.0f})",
                _format_ratio(result is base, ratio),
            ]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    note = f"p50, p95, p99: latency at batch {batches[0]}. {_describe_interval(base, batches[0])} Ratio to {base.name}."
    return "\n".join([*lines, "", note])


def _get_metric_name(results: Sequence[BenchResult]) -> str:
    return next((result.metric.name for result in results if result.metric), "metric")


def _describe_interval(result: BenchResult, batch: int) -> str:
    """Return a sentence about the figures in brackets and their coverage."""
    interval, num_rounds = result.throughput(batch), len(result.rates[batch])
    if interval.is_conclusive:
        return f"In brackets: interval of the median, {_format_percent(interval.coverage)} coverage."
    rounds_text = "1 round" if num_rounds == 1 else f"{num_rounds} rounds"
    return (
        f"In brackets: smallest and largest of {rounds_text}, which enclose the median in "
        f"{_format_percent(interval.coverage)} of cases: use --rounds {MIN_VALUES} or more for {_format_percent(CONFIDENCE)}."
    )


def _format_percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _format_ratio(is_base: bool, ratio: Interval) -> str:
    """Return the ratio, marked if it may be 1."""
    if is_base:
        return "1"
    mark = "" if ratio.excludes(1.0) else " (noise)" if ratio.is_conclusive else " (few rounds)"
    return f"{ratio.median:.2f}×{mark}"


def write_csv(results: Sequence[BenchResult], path: Path) -> None:
    """Write one row for each candidate and batch size."""
    names = (
        f"model batch {_get_metric_name(results)} size_bytes load_s peak_memory_bytes "
        f"p50_ms p95_ms p99_ms {results[0].unit}_per_s low high ratio ratio_low ratio_high interval_coverage"
    )
    rows: list[list[object]] = [[*names.split()]]
    for result in results:
        for batch in result.rates:
            rate, ratio = result.throughput(batch), result.ratio(results[0], batch)
            latency = [1000 * value for value in compute_percentiles(result.latencies[batch]).values()]
            rows.append(
                [
                    result.name,
                    batch,
                    None if result.metric is None else result.metric.value,
                    result.load_info["size_bytes"],
                    result.load_info["load_s"],
                    result.peak_memory_bytes,
                    *latency,
                    *rate.as_json(),
                    *ratio.as_json(),
                    rate.coverage,
                ]
            )
    write_text(path, format_csv(rows))


def write_picture(results: Sequence[BenchResult], path: Path) -> None:
    """Write a picture in the format of the path's ending: the metric against latency at the smallest batch.

    The area of each point is proportional to the size on disk.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    batch = min(results[0].rates)
    largest = max(result.load_info["size_bytes"] for result in results)
    unit = results[0].metric.unit if results[0].metric else ""
    scale = 100 if unit == "%" else 1
    points = sorted(results, key=lambda result: compute_percentiles(result.latencies[batch])["p50"])
    for number, result in enumerate(points):
        latency = 1000 * compute_percentiles(result.latencies[batch])["p50"]
        value = scale * (result.metric.value if result.metric else 0.0)
        area = 60 + 1200 * result.load_info["size_bytes"] / largest
        axes.scatter([latency], [value], s=area, alpha=0.55, color=f"C{number}", edgecolor="black", linewidth=0.6)
        label = f"{result.name} · {format_bytes(result.load_info['size_bytes'])}"
        axes.plot([], [], "o", color=f"C{number}", label=label)
    axes.set_xscale("log")
    ticks = LogLocator(subs=(1, 2, 5))
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"latency at batch {batch}, median, ms (log scale)")
    axes.set_ylabel(f"{_get_metric_name(results)}{f', {unit}' if unit else ''}")
    axes.margins(0.15)
    # The axis spans at least one point, so that no difference looks like none.
    middle = sum(axes.get_ylim()) / 2
    half = max((axes.get_ylim()[1] - axes.get_ylim()[0]) / 2, 0.5)
    axes.set_ylim(middle - min(half, 50), middle + min(half, 50))
    axes.grid(alpha=0.3, which="both")
    axes.legend(
        title="fastest first; area: size on disk",
        fontsize=8,
        title_fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    image = BytesIO()
    figure.savefig(image, format=path.suffix.removeprefix(".").lower(), dpi=120)
    write_bytes(path, image.getvalue())


def write_files(results: Sequence[BenchResult], csv: Path | None, picture: Path | None) -> None:
    """Write the files that are named."""
    if csv is not None:
        write_csv(results, csv)
    if picture is not None:
        write_picture(results, picture)


def check_files(csv: Path | None, picture: Path | None) -> None:
    """Raise ConfigError if a file cannot be written after the measurements, or the picture has no known ending."""
    if csv is not None:
        check_output_file("csv", csv, "bench.csv")
    if picture is None:
        return
    check_output_file("picture", picture, "bench.png")
    if picture.suffix.lower() not in _PICTURE_SUFFIXES:
        raise ConfigError(
            f"--picture {picture} must end in {', '.join(_PICTURE_SUFFIXES[:-1])} or {_PICTURE_SUFFIXES[-1]}",
            f"use --picture {picture.with_suffix('.png')}",
        )
