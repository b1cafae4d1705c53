"""The live view of a terminal: evaluations scroll by as rows of a table, above a panel that is drawn over itself.

The lines of `live_panel.py` are handed to rich as finished segments: its wrapping and measuring of text would cost more
than all the rest.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.style import Style

from dnntrain.display.base import Header, LiveState, Pace, improves, number
from dnntrain.display.panel import History, Line, opening, panel, table_head, table_row
from dnntrain.utils.streams import SafeStream

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
_WIDEST = 100


class TerminalDisplay:
    """Draws with rich, on the calling thread only."""

    def __init__(self, stream: TextIO) -> None:
        safe: Any = SafeStream(stream)
        self._console = Console(file=safe, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._ascii = not safe.encoding.lower().startswith("utf")
        self._pace = Pace(0.25)
        self._live: Live | None = None
        self._header = Header("", "", "", "", 0, 0, 0.0, "")
        self._state = LiveState()
        self._losses = History()
        self._has_table = False

    @property
    def next_refresh(self) -> float:
        """The time.perf_counter() before which a refresh is not due."""
        return self._pace.next_s

    def start(self, header: Header) -> None:
        self._header = header
        self._state = LiveState(total_steps=header.steps, total_epochs=header.epochs)
        for line in opening(header, self._width, self._ascii):
            self._print(line)
        # Only what goes to this same terminal may be redirected through it.
        same = sys.stdout is not None and sys.stdout.isatty()
        self._live = Live(self, console=self._console, auto_refresh=False, redirect_stdout=same, redirect_stderr=True)
        self._live.start()

    def refresh(self, state: LiveState) -> None:
        started = time.perf_counter()
        self._state = state
        if self._live is not None:
            self._live.refresh()
        self._pace.spent(started)

    def row(self, row: Mapping[str, Any]) -> None:
        split, state = row.get("split"), self._state
        state.step = max(state.step, int(number(row.get("step"), 0)))
        if state.total_steps:
            state.fraction = min(state.step / state.total_steps, 1.0)
        state.epoch = max(state.epoch, number(row.get("epoch"), 0.0))
        state.elapsed_s = max(state.elapsed_s, number(row.get("wall_s"), 0.0))
        if split == "train":
            state.loss = number(row.get("loss"))
            state.learning_rate = number(row.get("lr"))
            state.examples_per_s = number(row.get("examples_per_s"), state.examples_per_s)
            self._losses.add(state.loss)
        elif split in ("val", "test"):
            self._print_row(row)
        elif split == "event":
            self._print(
                [("  ", "plain"), (f"step {row.get('step')}: {row.get('reason') or row.get('event')}", "warning")]
            )

    def message(self, text: str, warning: bool = False) -> None:
        for line in text.splitlines() or [""]:
            self._print([(line, "warning" if warning else "label")], crop=False)

    def close(self, status: str) -> None:
        if self._live is not None:
            if math.isfinite(self._state.eta_s):
                self._state.eta_s = 0.0 if self._state.fraction >= 1 else math.nan
            self._live.stop()
            self._live = None
        role = "good" if status.endswith("done") else "warning" if "pre" in status or "inter" in status else "bad"
        self._print([(status, role)], crop=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in panel(
            self._header, self._state, self._losses.values, self._width, options.size.height, self._ascii
        ):
            yield from (Segment(text, _STYLES[role]) for text, role in line)
            yield Segment.line()

    @property
    def _width(self) -> int:
        """Cells of a line; the last column stays free, as some terminals wrap there."""
        return max(10, min(self._console.width - 1, _WIDEST))

    def _print_row(self, row: Mapping[str, Any]) -> None:
        state = self._state
        if row["split"] == "val":
            improved = improves(row, state.metric_name, state.best)
            state.metric = number(row.get(state.metric_name))
            if improved:
                state.best = state.metric
        else:
            improved = False
        if not self._has_table:
            self._has_table = True
            self._print(table_head(self._width))
        self._print(table_row(row, state.loss, improved, self._width, self._ascii))

    def _print(self, line: Line, crop: bool = True) -> None:
        renderable: RenderableType = _Segments(line)
        self._console.print(renderable, crop=crop, soft_wrap=not crop)


class _Segments:
    """A line that needs no measuring."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield from (Segment(text, _STYLES[role]) for text, role in self._line)
        yield Segment.line()
