"""What a person sees while training: a live view on a terminal, plain lines in a pipe, JSON lines, or nearly nothing.

A display has no thread of its own: the training loop calls it, and asks `next_refresh` first. Each refresh is timed,
and the next one is put off so that all of them together cost at most 0.3 % of the time. A closed pipe never ends the
training.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TextIO

from dnntrain.units import format_bytes, format_count, format_epochs, format_seconds

Mode = Literal["auto", "quiet", "json"]

#: Share of the wall time that refreshing may take.
_COST_SHARE = 0.003


@dataclass(frozen=True)
class Header:
    """What is said once, at the start. `steps` and `epochs` are 0 where the run's length is a time."""

    title: str
    model: str
    data: str
    layout: str
    parameters: int
    steps: int
    epochs: float
    run_dir: str


@dataclass(slots=True)
class LiveState:
    """Where the run stands. Unknown numbers are NaN, `fraction` is in [0, 1]; with no known end `total_steps` is 0."""

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    total_epochs: float = 0.0
    fraction: float = 0.0
    elapsed_s: float = 0.0
    eta_s: float = math.nan
    loss: float = math.nan
    metric_name: str = "accuracy"
    metric: float = math.nan
    best: float = math.nan
    learning_rate: float = math.nan
    examples_per_s: float = math.nan
    memory_bytes: int = 0


class Display(Protocol):
    """Where the state of a run is shown."""

    @property
    def next_refresh(self) -> float:
        """The time.perf_counter() before which `refresh` need not be called."""

    def start(self, header: Header) -> None: ...

    def refresh(self, state: LiveState) -> None: ...

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes each new row of metrics; rows of an evaluation are shown for good."""

    def message(self, text: str, warning: bool = False) -> None:
        """Says something for good; a quiet display says warnings only."""

    def close(self, status: str) -> None: ...


def make_display(mode: Mode | str = "auto", stream: TextIO | None = None, output: TextIO | None = None) -> Display:
    """The display for `mode` on `stream` (default stderr); `json` writes its rows to `output` (default stdout).

    `auto` is the live view where `stream` is a terminal that can move its cursor (TERM is not dumb), else plain lines.
    """
    stream = sys.stderr if stream is None else stream
    if mode == "json":
        return JsonDisplay(stream, sys.stdout if output is None else output)
    if mode == "quiet":
        return QuietDisplay(stream)
    if is_live_terminal(stream):
        from dnntrain.live_terminal import TerminalDisplay

        return TerminalDisplay(stream)
    return PlainDisplay(stream, coloured=_forced_colour(os.environ))


def is_live_terminal(stream: TextIO) -> bool:
    """True for a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class SafeStream:
    """A text stream that goes silent, instead of raising, once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.closed_by_reader = False

    def write(self, text: str) -> int:
        """Writes all of `text`; characters that the stream cannot encode become question marks."""
        if not self.closed_by_reader:
            try:
                self._stream.write(text.encode(self.encoding, errors="replace").decode(self.encoding))
            except (OSError, ValueError):
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if not self.closed_by_reader:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def line(self, text: str) -> None:
        """Writes one whole line."""
        self.write(f"{text}\n")
        self.flush()

    def _give_up(self) -> None:
        """Points the descriptor to the null device, so that Python's own flush at exit meets no broken pipe either."""
        self.closed_by_reader = True
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            pass


class Pace:
    """When to refresh next: not before `at_least_s`, and late enough that refreshing costs its share of time only."""

    def __init__(self, at_least_s: float) -> None:
        self.at_least_s = at_least_s
        self.next_s = 0.0

    def spent(self, started_s: float) -> None:
        """Takes note of a refresh that began at `started_s` and ends now."""
        now = time.perf_counter()
        self.next_s = now + max(self.at_least_s, (now - started_s) / _COST_SHARE)


class QuietDisplay:
    """Warnings only."""

    next_refresh = math.inf

    def __init__(self, stream: TextIO) -> None:
        self._stream = SafeStream(stream)

    def start(self, header: Header) -> None:
        pass

    def refresh(self, state: LiveState) -> None:
        pass

    def row(self, row: Mapping[str, Any]) -> None:
        pass

    def message(self, text: str, warning: bool = False) -> None:
        if warning:
            self._stream.line(text)

    def close(self, status: str) -> None:
        pass


class JsonDisplay(QuietDisplay):
    """Each row of metrics as one line of JSON; non-finite numbers as strings."""

    def __init__(self, stream: TextIO, output: TextIO) -> None:
        super().__init__(stream)
        self._output = SafeStream(output)

    def row(self, row: Mapping[str, Any]) -> None:
        finite = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        self._output.line(json.dumps(finite, allow_nan=False, default=str))


class PlainDisplay:
    """For pipes and simple terminals: a line every few seconds and one for each evaluation; no control codes.

    Where colour is forced, evaluations that improve are green.
    """

    def __init__(self, stream: TextIO, coloured: bool = False, every_s: float = 5.0) -> None:
        self.next_refresh = 0.0
        self._stream = SafeStream(stream)
        self._coloured = coloured
        self._every_s = every_s
        self._metric_name, self._best = "accuracy", math.nan
        self._total_steps = 0

    def start(self, header: Header) -> None:
        self._total_steps = header.steps
        self._stream.line(f"{header.title}: {about(header)}")
        self._stream.line(f"run directory: {header.run_dir}")
        self.next_refresh = time.perf_counter() + min(2.0, self._every_s)

    def refresh(self, state: LiveState) -> None:
        self._metric_name, self._best = state.metric_name, state.best
        self._stream.line(state_line(state))
        # A long run needs no line every five seconds: at most about a hundred for each tenfold of its age.
        self.next_refresh = time.perf_counter() + min(max(self._every_s, state.elapsed_s / 100), 60.0)

    def row(self, row: Mapping[str, Any]) -> None:
        if row.get("split") == "event":
            self._stream.line(f"step {row.get('step')}: {row.get('event')}: {row.get('reason', '')}")
        elif row.get("split") in ("val", "test"):
            improved = row["split"] == "val" and improves(row, self._metric_name, self._best)
            if improved:
                self._best = number(row.get(self._metric_name))
            line = row_line(row, self._total_steps) + (", best so far" if improved else "")
            self._stream.line(f"\x1b[32m{line}\x1b[0m" if improved and self._coloured else line)

    def message(self, text: str, warning: bool = False) -> None:
        self._stream.line(f"\x1b[33m{text}\x1b[0m" if warning and self._coloured else text)

    def close(self, status: str) -> None:
        self._stream.line(status)


def about(header: Header) -> str:
    """Model, data and layout in one line."""
    length = f"{header.steps:,} steps" if header.steps else "until its time is over"
    epochs = f" ({format_epochs(header.epochs)} epochs)" if header.epochs else ""
    return (
        f"{header.model} with {format_count(header.parameters)} parameters on {header.data}, {header.layout}, "
        f"{length}{epochs}"
    )


def state_line(state: LiveState) -> str:
    """The state in one plain line; what is unknown is left out."""
    parts = [
        f"step {state.step}/{state.total_steps}" if state.total_steps else f"step {state.step}",
        f"{100 * state.fraction:.0f}%",
        f"epoch {state.epoch:.2f}",
        f"loss {shown('loss', state.loss)}",
        f"{state.metric_name} {shown(state.metric_name, state.metric)}",
        f"best {shown(state.metric_name, state.best)}",
        f"lr {shown('lr', state.learning_rate)}",
        speed(state.examples_per_s),
        format_bytes(state.memory_bytes) if state.memory_bytes else "-",
        f"eta {format_seconds(state.eta_s)}",
    ]
    return "  ".join(part for part in parts if not part.endswith("-"))


def row_line(row: Mapping[str, Any], total_steps: int) -> str:
    """An evaluation in one plain line."""
    step = f"{row.get('step')}/{total_steps}" if total_steps else f"{row.get('step')}"
    values = [
        f"{name} {shown(name, number(value))}"
        for name, value in row.items()
        if name not in ("step", "epoch", "examples", "wall_s", "split") and math.isfinite(number(value, math.inf))
    ]
    where = f"{row.get('split')} at step {step}, epoch {number(row.get('epoch')):.2f}"
    return f"{where}: {', '.join(values) or 'no finite value'}"


def improves(row: Mapping[str, Any], metric_name: str, best: float) -> bool:
    """True where the row's metric is better than `best`, or is the first one."""
    value = number(row.get(metric_name))
    if math.isnan(value):
        return False
    return math.isnan(best) or (value < best if metric_name == "loss" else value > best)


def number(value: Any, otherwise: float = math.nan) -> float:
    """`value` as a float, also where it is the text "nan" or "inf"; `otherwise` where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise


def shown(name: str, value: float) -> str:
    """A metric for people: accuracies in percent, learning rates in three digits; "-" where unknown."""
    if math.isnan(value):
        return "-"
    if name.startswith(("accuracy", "top")) and math.isfinite(value):
        return f"{100 * value:.2f}%"
    if name == "lr":
        return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def speed(examples_per_s: float) -> str:
    """`41200` → `41.2k ex/s`."""
    if not math.isfinite(examples_per_s):
        return "-"
    for unit in ("", "k", "M"):
        if examples_per_s < 1000:
            return f"{examples_per_s:.4g}{unit} ex/s" if not unit else f"{examples_per_s:.1f}{unit} ex/s"
        examples_per_s /= 1000
    return f"{examples_per_s:.1f}G ex/s"


def _forced_colour(environ: Mapping[str, str]) -> bool:
    """FORCE_COLOR asks for colour where there is no terminal; NO_COLOR overrules it (no-color.org, force-color.org)."""
    return environ.get("FORCE_COLOR", "") not in ("", "0") and not environ.get("NO_COLOR")
