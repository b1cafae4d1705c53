"""The live view of a terminal: a table of evaluations above a panel redrawn in place.

rich gets the lines of `panel.py` as finished segments: its wrapping and measuring of text would
cost more than all the rest.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style

from dnntrain.display.base import Header, LiveState, Pace, to_float
from dnntrain.display.console import CleanConsole, CleanLive
from dnntrain.display.live_panel import History, Line, format_opening, format_panel, format_table_head, format_table_row

_STYLES = {
    role: Style.parse(definition)
    for role, definition in {
        "plain": "",
        "border": "bright_black",
        "title": "bold cyan",
        "label": "bright_black",
        "value": "bold",
        "bar": "cyan",
        "full": "green",
        "rest": "bright_black",
        "spark": "cyan",
        "good": "bold green",
        "warning": "yellow",
        "bad": "bold red",
    }.items()
}
_MAX_WIDTH = 100


class TerminalDisplay:
    """Draw with rich, on the calling thread only."""

    def __init__(self, stream: TextIO) -> None:
        self._console = CleanConsole(stream, force_terminal=True)
        self._ascii = not self._console.encoding.lower().startswith("utf")
        self._pace = Pace(0.25)
        self._live: CleanLive | None = None
        self._header = Header("", "", "", "", 0, 0, 0.0, "")
        self._state = LiveState()
        self._losses = History()
        self._has_table = False
        self._is_drawing = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def next_refresh(self) -> float:
        """The time.perf_counter() before which a refresh is not due."""
        return self._pace.next_s

    def start(self, header: Header) -> None:
        self._header = header
        self._state = LiveState(
            total_steps=header.steps, total_epochs=header.epochs, metric_info=header.metrics[0], best=header.best
        )
        for line in format_opening(header, self._width, self._ascii):
            self._print(line)
        # Only output to this same terminal may be redirected through it.
        shares_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._live = CleanLive(
            self, console=self._console, auto_refresh=False, redirect_stdout=shares_terminal, redirect_stderr=True
        )
        self._live.start()

    def refresh(self, state: LiveState) -> None:
        started = time.perf_counter()
        self._state = state
        if self._live is not None:
            self._draw(self._live.refresh)
        self._pace.record_refresh(started)

    def show_row(self, row: Mapping[str, Any], is_best: bool = False) -> None:
        split, state = row.get("split"), self._state
        state.step = max(state.step, int(to_float(row.get("step"), 0)))
        if state.total_steps:
            state.fraction = min(state.step / state.total_steps, 1.0)
        state.epoch = max(state.epoch, to_float(row.get("epoch"), 0.0))
        state.elapsed_s = max(state.elapsed_s, to_float(row.get("wall_s"), 0.0))
        if split == "train":
            state.loss = to_float(row.get("loss"))
            state.learning_rate = to_float(row.get("lr"))
            state.examples_per_s = to_float(row.get("examples_per_s"), state.examples_per_s)
            self._losses.add(state.loss)
        elif split in ("val", "test"):
            self._print_row(row, is_best)
        elif split == "event":
            self._print(
                [("  ", "plain"), (f"step {row.get('step')}: {row.get('reason') or row.get('event')}", "warning")]
            )

    def show_message(self, text: str, warning: bool = False) -> None:
        for line in text.splitlines() or [""]:
            self._print([(line, "warning" if warning else "label")], crop=False)

    def close(self, status: str) -> None:
        if self._live is not None:
            self._state.eta_s = math.nan
            self._draw(self._live.stop)
            self._live = None
        role = "good" if status.endswith("done") else "warning" if "pre" in status or "inter" in status else "bad"
        self._print([(status, role)], crop=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in format_panel(
            self._header, self._state, self._losses.values, self._width, options.size.height, self._ascii
        ):
            yield from (Segment(text, _STYLES[role]) for text, role in line)
            yield Segment.line()

    @property
    def _width(self) -> int:
        """Return the cells of a line.

        The last column stays free, because some terminals wrap there.
        """
        return max(10, min(self._console.width - 1, _MAX_WIDTH))

    def _print_row(self, row: Mapping[str, Any], is_best: bool) -> None:
        state = self._state
        if row["split"] == "val":
            state.metric = to_float(row.get(state.metric_info.name))
            state.best = state.metric if is_best else state.best
        if not self._has_table:
            self._has_table = True
            self._print(format_table_head(self._header.headline, self._width))
        self._print(format_table_row(row, self._header.headline, state.loss, is_best, self._width, self._ascii))

    def _print(self, line: Line, crop: bool = True) -> None:
        renderable: RenderableType = _Segments(line)
        self._draw(lambda: self._console.print(renderable, crop=crop, soft_wrap=not crop))

    def _draw(self, work: Callable[[], None]) -> None:
        """Draw now, or after the drawing that a signal's handler interrupted."""
        self._waiting.append(work)
        if self._is_drawing:
            return
        self._is_drawing = True
        try:
            while self._waiting:
                self._waiting.pop(0)()
        finally:
            self._is_drawing = False


class _Segments:
    """A line that needs no measuring."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield from (Segment(text, _STYLES[role]) for text, role in self._line)
        yield Segment.line()
