"""Several runs on one page: their figures, what they were set to differently, their curves over one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dnntrain.report.format import metric_text, percent, short
from dnntrain.report.html import escaped, isolated, section, table
from dnntrain.report.load_run import RunData, number
from dnntrain.report.sections import best_value, test_value
from dnntrain.report.style import TONES
from dnntrain.report.svg_chart import Curve, chart, curve
from dnntrain.utils.units import format_bytes, format_count, format_seconds

_POINTS = 12_000
_DIFFERENCES = 60


def labels(runs: Sequence[RunData]) -> list[str]:
    """A name for each run: its own where that is enough, else with its folder, else with a number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.name} {run.path.name}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    return names


def figures(runs: Sequence[RunData], names: Sequence[str]) -> str:
    """One row a run; the best value of each column stands out."""
    columns: list[tuple[str, Callable[[RunData], float], Callable[[float], str], int]] = [
        ("test accuracy", lambda run: test_value(run, "accuracy"), percent, 1),
        ("best val", lambda run: best_value(run)[1], lambda value: metric_text(runs[0].metric, value), _sign(runs)),
        ("at step", lambda run: best_value(run)[2], short, 0),
        ("training time", lambda run: number(run.result.get("train_s")), format_seconds, -1),
        ("examples/s", lambda run: number(run.result.get("examples_per_s")), lambda value: f"{value:,.0f}", 1),
        ("step, ms", lambda run: number(run.result.get("step_ms")), lambda value: f"{value:.3g}", -1),
        ("peak memory", lambda run: number(run.result.get("peak_memory_mb")), lambda mb: format_bytes(mb * 2**20), -1),
        ("parameters", lambda run: number(run.result.get("parameters")), format_count, 0),
    ]
    rows = [
        [_name(index, name), escaped(run.status)] for index, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    head = ["run", "status"]
    for title, read, text, sign in columns:
        values = [read(run) for run in runs]
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            continue
        head.append(title)
        best = max(finite, key=lambda value: sign * value) if sign and len(set(finite)) > 1 else math.nan
        for row, value in zip(rows, values, strict=True):
            cell = escaped(text(value)) if math.isfinite(value) else "–"
            row.append(f'<span class="best">{cell}</span>' if value == best else cell)
    shown = table(head, rows, "The best of each column is green.")
    return section("Figures", f'<div class="panel">{shown}</div>')


def differences(runs: Sequence[RunData], names: Sequence[str]) -> str:
    """The configuration keys in which the runs differ."""
    configs = [dict(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if key != "run_dir" and len({config.get(key) for config in configs}) > 1]
    rows = [
        (isolated(key), *(isolated(config.get(key, "–"), 60) for config in configs)) for key in differing[:_DIFFERENCES]
    ]
    left = len(differing) - len(rows)
    note = f'<p class="note">{left} more keys differ.</p>' if left > 0 else ""
    head = ["key", *(_name(index, name) for index, name in enumerate(names))]
    shown = table(head, rows, "Keys of the resolved configurations.")
    return section("What differs", f'<div class="panel">{shown}{note}</div>' if rows else "")


def overlays(runs: Sequence[RunData], names: Sequence[str]) -> str:
    """The curves of all runs: by step, and the validation metric by time, which shows what is faster."""
    most = max(40, _POINTS // (len(runs) * 5))

    def draw(title: str, split: str, name: str, by_time: bool = False) -> str:
        curves = [
            _curve(run, split, name, label, index, by_time)
            for index, (run, label) in enumerate(zip(runs, names, strict=True))
        ]
        if by_time:
            return chart(title, curves, metric=name, x_name="time", x_text=format_seconds, most_points=most)
        return chart(title, curves, metric=name, most_points=most, zero=name == "examples_per_s")

    metric = runs[0].metric
    drawn = [
        draw(f"Validation {metric} by time", "val", metric, by_time=True),
        draw(f"Validation {metric} by step", "val", metric),
        draw("Validation loss", "val", "loss") if metric != "loss" else "",
        draw("Training loss", "train", "loss"),
        draw("Learning rate", "train", "lr"),
        draw("Examples per second", "train", "examples_per_s"),
    ]
    body = "".join(figure for figure in drawn if figure)
    return section(
        "Curves", f'<div class="charts">{body}</div>' if body else '<p class="note">No metrics were written.</p>'
    )


def _curve(run: RunData, split: str, name: str, label: str, index: int, by_time: bool) -> Curve:
    return curve(
        label,
        run.get(split, name),
        index % len(TONES),
        by_time=by_time,
        dashed=index >= len(TONES),
        noisy=split == "train" and name != "lr",
    )


def _name(index: int, name: str) -> str:
    dashed = " dashed" if index >= len(TONES) else ""
    return f'<i class="swatch t{index % len(TONES)}{dashed}"></i>{isolated(name, 60)}'


def _sign(runs: Sequence[RunData]) -> int:
    return -1 if runs[0].metric == "loss" else 1
