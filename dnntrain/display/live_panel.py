"""Format the live view as lines of (text, role).

These are pure functions of the state and the size of the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.cells import cell_len, set_cell_size

from dnntrain.display.base import Header, LiveState, format_learning_rate, format_metric, format_throughput, to_float
from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.utils.terminal_text import clean_line
from dnntrain.utils.units import format_bytes, format_count, format_epochs, format_seconds

Line = list[tuple[str, str]]

_SPARKS = "▁▂▃▄▅▆▇█"
_CELL = 16
_GAP = 3


class History:
    """A summary of a series in at most `size` values: when full, neighbors are averaged."""

    def __init__(self, size: int = 128) -> None:
        self.values: list[float] = []
        self._size = size
        self._every = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        if not math.isfinite(value):
            return
        self._pending.append(value)
        if len(self._pending) < self._every:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending.clear()
        if len(self.values) == self._size:
            self.values = [(left + right) / 2 for left, right in zip(self.values[::2], self.values[1::2], strict=True)]
            self._every *= 2


def format_opening(header: Header, width: int, ascii_only: bool = False) -> list[Line]:
    """Return the lines above the panel: the model, the data, and the run directory."""
    dot = " - " if ascii_only else " · "
    facts = dot.join((header.model, f"{format_count(header.parameters)} parameters", header.data, header.layout))
    return [
        [(fit_text(f"  {facts}", width), "plain")],
        [(fit_text(f"  {header.run_dir}", width, from_left=True), "label")],
        [],
    ]


def format_table_head(headline: MetricInfo | None, width: int) -> Line:
    """Return the names of the columns of `format_table_row`."""
    name = headline.name if headline else ""
    return [(_format_columns(("epoch", "step", "train loss", "val loss", name, "time"), width), "label")]


def format_table_row(
    row: Mapping[str, Any],
    headline: MetricInfo | None,
    train_loss: float,
    is_best: bool,
    width: int,
    ascii_only: bool = False,
) -> Line:
    """Return the line of one evaluation.

    If `width` is too small for all columns, the least important ones are left out. A test has the
    step of its weights.
    """
    val_loss = format_metric(LOSS, to_float(row.get("loss")))
    metric = format_metric(headline, to_float(row.get(headline.name))) if headline else ""
    if row["split"] == "test":
        values = ("test", str(row.get("weights_step", "")), "", val_loss, metric, "")
        return [(_format_columns(values, width), "good")]
    values = (
        f"{to_float(row.get('epoch')):.1f}",
        f"{row.get('step')}",
        format_metric(LOSS, train_loss),
        val_loss,
        metric,
        format_seconds(to_float(row.get("wall_s"))),
    )
    text = _format_columns(values, width)
    mark = "*" if ascii_only else "★"
    has_room = width - len(text) >= 2
    return [(text, "plain"), (f" {mark}", "good")] if is_best and has_room else [(text, "good" if is_best else "plain")]


def _format_columns(values: tuple[str, str, str, str, str, str], width: int) -> str:
    """Return right-aligned columns; if they do not fit, only the most important ones."""
    widths = (8, 9, 12, 11, 11, 9)
    order = (0, 4, 3, 2, 1, 5)
    shown_columns: set[int] = set()
    for column in order:
        if sum(widths[shown_column] for shown_column in shown_columns) + widths[column] > max(width, 19):
            break
        shown_columns.add(column)
    return "".join(f"{values[column]:>{widths[column]}}" for column in sorted(shown_columns))[:width]


def format_panel(
    header: Header, state: LiveState, losses: Sequence[float], width: int, height: int = 25, ascii_only: bool = False
) -> list[Line]:
    """Return the panel as lines of (text, role).

    They are `width` cells wide, and at most `height` - 1 many. From 30 cells on the panel has a
    frame. Its numbers fill as many columns as fit, at most four.
    """
    has_frame = width >= 30 and height >= 7
    inner = width - 4 if has_frame else width
    columns = max(1, min(4, (inner + _GAP) // (_CELL + _GAP)))
    room = max(1, height - 2 - (2 if has_frame else 0))
    bar = _format_bar(state, inner, ascii_only)
    lines = [bar, *_arrange_cells(_make_cells(state, losses, ascii_only), columns, inner)][:room]
    if not has_frame:
        return [_pad_line(line, width) for line in lines]
    side, corners, rule = ("|", "++++", "-") if ascii_only else ("│", "╭╮╰╯", "─")
    left, right = f" {fit_text(header.title, max(4, inner // 2))} ", f" {_format_position(state, inner)} "
    fill = width - 4 - cell_len(left) - cell_len(right)
    if fill < 0:
        right, fill = "", width - 4 - cell_len(left)
    top: Line = [
        (corners[0] + rule, "border"),
        (left, "title"),
        (rule * fill, "border"),
        (right, "label"),
        (rule + corners[1], "border"),
    ]
    bottom: Line = [(corners[2] + rule * (width - 2) + corners[3], "border")]
    return [top, *([(f"{side} ", "border"), *_pad_line(line, inner), (f" {side}", "border")] for line in lines), bottom]


def _format_position(state: LiveState, room: int) -> str:
    epochs = (
        f"epoch {state.epoch:.1f}/{format_epochs(state.total_epochs)}"
        if state.total_epochs
        else f"epoch {state.epoch:.1f}"
    )
    steps = f"step {state.step}/{state.total_steps}" if state.total_steps else f"step {state.step}"
    both = f"{epochs}  {steps}"
    return both if len(both) <= room // 2 else epochs


def _format_bar(state: LiveState, width: int, ascii_only: bool) -> Line:
    percent = f"{state.percent:4d}%"
    remaining_s = state.remaining_s
    eta = f"  eta {format_seconds(remaining_s)}".ljust(13) if width >= 30 and math.isfinite(remaining_s) else ""
    length = width - len(percent) - len(eta)
    done, rest = ("#", ".") if ascii_only else ("━", "━")
    full = min(length, round(length * max(0.0, min(state.fraction, 1.0))))
    return [
        (done * full, "full" if state.fraction >= 1 else "bar"),
        (rest * (length - full) if ascii_only or full < length else "", "rest"),
        (percent, "value"),
        (eta, "label"),
    ]


def _make_cells(state: LiveState, losses: Sequence[float], ascii_only: bool) -> list[Line]:
    """Return the numbers, each `_CELL` cells wide, in the order of their importance."""
    name = "val loss" if state.metric_info == LOSS else state.metric_info.name
    is_best = state.metric == state.best
    return [
        _make_cell("loss", format_metric(LOSS, state.loss)),
        _make_cell(name, format_metric(state.metric_info, state.metric), "good" if is_best else "value"),
        _make_cell("lr", format_learning_rate(state.learning_rate)),
        _make_cell("speed", format_throughput(state.examples_per_s)),
        [(draw_sparkline(losses, _CELL, ascii_only), "spark")],
        _make_cell("best", format_metric(state.metric_info, state.best)),
        _make_cell("time", format_seconds(state.elapsed_s)),
        _make_cell("mem", format_bytes(state.memory_bytes) if state.memory_bytes else "-"),
    ]


def _make_cell(label: str, value: str, role: str = "value") -> Line:
    label = fit_text(label, max(1, _CELL - len(value) - 1))
    return [(label, "label"), (" " * (_CELL - cell_len(label) - len(value)), "plain"), (value, role)]


def _arrange_cells(cells: list[Line], columns: int, width: int) -> list[Line]:
    gap = _GAP if columns == 1 else min(8, (width - columns * _CELL) // (columns - 1))
    lines: list[Line] = []
    for start in range(0, len(cells), columns):
        line: Line = []
        for cell in cells[start : start + columns]:
            line += [(" " * gap, "plain"), *cell] if line else cell
        lines.append(line)
    return lines


def draw_sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """Draw `values` in `width` characters, the newest on the right; empty for fewer than two."""
    if len(values) < 2 or ascii_only:
        return " " * width
    count = min(width, len(values))
    edges = [round(position * len(values) / count) for position in range(count + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((mean - low) * scale)] for mean in means).ljust(width)


def fit_text(text: str, width: int, from_left: bool = False) -> str:
    """Return `text` on one line of at most `width` cells, cut with an ellipsis.

    Control characters become their escapes.
    """
    text = clean_line(text)
    if cell_len(text) <= width:
        return text
    if from_left:
        while cell_len(text) > width - 1:
            text = text[1:]
        return f"…{text}"
    return f"{set_cell_size(text, width - 1)}…"


def _pad_line(line: Line, width: int) -> Line:
    """Pad or cut the line to exactly `width` cells."""
    spans: Line = []
    for text, role in line:
        text = text if cell_len(text) <= width else set_cell_size(text, width)
        width -= cell_len(text)
        spans.append((text, role))
    return [*spans, (" " * width, "plain")]
