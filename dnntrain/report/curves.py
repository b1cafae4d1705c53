"""Draw curves.png: loss, metric and learning rate of a run in one picture."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.errors import ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.report.format import Point, format_metric, thin_points
from dnntrain.report.load_metrics import Event
from dnntrain.report.load_run import RunData, read_run
from dnntrain.report.sections import get_best_value, get_test_value
from dnntrain.report.style import TONES
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _GRID = "#171a21", "#545b69", "#e1e4ea"
_LOG_SPAN = 40

#: Marked events; and the smallest distance between two named ones, as a share of the picture.
_MAX_MARKS = 20
_NAME_SHARE = 0.03


def write_curves(run_dir: Path) -> Path:
    """Draw curves.png in the run directory and return its path. Raises ConfigError if it cannot."""
    run = read_run(Path(run_dir))
    path = run.path / "curves.png"
    try:
        write_bytes(path, draw_curves(run))
    except OSError as error:
        raise explain_lack_of_resources(error) or ConfigError(
            f"{path} cannot be written: {error.strerror or error}", "the run directory must be writable"
        ) from None
    return path


def draw_curves(run: RunData) -> bytes:
    """Return the picture as PNG, 1500 by 480 pixels, on a light ground.

    Panels without a finite value say so.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 4), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _draw_panel(
        left, "Loss", [("train", 0, _get_points(run, "train", "loss")), ("val", 1, _get_points(run, "val", "loss"))]
    )
    metric = run.headline
    values = [("val", 1, _get_points(run, "val", metric.name))]
    best = get_best_value(run) if run.metric == metric else None
    _draw_panel(middle, metric.name.replace("_", " ").capitalize(), values, share=metric.is_share, best=best)
    _draw_panel(right, "Learning rate", [("", 2, _get_points(run, "train", "lr"))])
    for axes in (left, middle, right):
        _mark_events(axes, run.events[:_MAX_MARKS])
    figure.suptitle(
        _remove_unprintable(_make_title(run)),
        fontsize=11,
        color=_INK,
        x=0.01,
        ha="left",
        weight="bold",
        parse_math=False,
    )
    buffer = BytesIO()
    with warnings.catch_warnings():
        # A name with letters that the font lacks is drawn as boxes; that needs no warning at the
        # end of a run.
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def _draw_panel(
    axes: Axes,
    title: str,
    lines: Sequence[tuple[str, int, list[Point]]],
    share: bool = False,
    best: tuple[MetricInfo, float, float] | None = None,
) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_SOFT)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_SOFT, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID)
    values = [value for _, _, points in lines for _, value in points]
    if not values:
        axes.text(0.5, 0.5, "no finite values", ha="center", va="center", color=_SOFT, transform=axes.transAxes)
        return
    for label, tone, points in lines:
        if points:
            xs, ys = zip(*thin_points(points, 800), strict=True)
            marker = "o" if len(points) <= 30 else ""
            axes.plot(xs, ys, color=TONES[tone][0], linewidth=1.8, marker=marker, markersize=3.5, label=label)
    if title == "Loss" and min(values) > 0 and max(values) > _LOG_SPAN * min(values):
        axes.set_yscale("log")
    if share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    if best is not None and best[1] == best[1] and best[2] == best[2]:
        axes.plot(
            [best[2]],
            [best[1]],
            marker="*",
            markersize=12,
            color=TONES[1][0],
            linestyle="",
            label=f"best {format_metric(best[0], best[1])}",
        )
    if any(label for label, _, points in lines if points):
        axes.legend(fontsize=8, frameon=False, labelcolor=_INK)


def _mark_events(axes: Axes, events: Sequence[Event]) -> None:
    """Draw a dashed line at each event, with its name on top.

    Of several events at one place the first is named.
    """
    width = max(axes.get_xlim()[1] - axes.get_xlim()[0], 1e-9)
    named_x = -math.inf
    for event in events:
        axes.axvline(event.step, color=_SOFT, linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.7, zorder=0.5)
        if event.step - named_x < _NAME_SHARE * width:
            continue
        named_x = event.step
        axes.annotate(
            _remove_unprintable(event.name[:16]),
            (event.step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=6.5,
            color=_SOFT,
            parse_math=False,
        )


def _get_points(run: RunData, split: str, name: str) -> list[Point]:
    return run.get_series(split, name).get_finite_points()


def _make_title(run: RunData) -> str:
    test = get_test_value(run, run.headline.name)
    figure = f": test {run.headline.name} {format_metric(run.headline, test)}" if test == test else ""
    return f"{run.name[:80]} ({run.status}){figure}"


def _remove_unprintable(text: str) -> str:
    """Return the letters that a font can draw on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
