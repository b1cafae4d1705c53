"""Displays without a live view: plain lines, JSON lines, or warnings only."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dnntrain.display.base import (
    Header,
    LiveState,
    format_learning_rate,
    format_metric,
    format_throughput,
    to_float,
)
from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.utils.streams import SafeStream
from dnntrain.utils.units import format_bytes, format_count, format_epochs, format_seconds, pluralize

_GREEN, _YELLOW = 32, 33


class QuietDisplay:
    """Show warnings only."""

    next_refresh = math.inf

    def __init__(self, stream: TextIO) -> None:
        self._stream = SafeStream(stream)

    def start(self, header: Header) -> None:
        pass

    def refresh(self, state: LiveState) -> None:
        pass

    def show_row(self, row: Mapping[str, Any], is_best: bool = False) -> None:
        pass

    def show_message(self, text: str, warning: bool = False) -> None:
        if warning:
            self._stream.write_line(text)

    def close(self, status: str) -> None:
        pass


class JsonDisplay(QuietDisplay):
    """Write each row of metrics as one line of JSON; non-finite numbers are strings."""

    def __init__(self, stream: TextIO, output: TextIO) -> None:
        super().__init__(stream)
        self._output = SafeStream(output)

    def show_row(self, row: Mapping[str, Any], is_best: bool = False) -> None:
        json_row = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        self._output.write_line(json.dumps(json_row, allow_nan=False, default=str))


class PlainDisplay:
    """Write plain lines for pipes and simple terminals.

    There is one line every few seconds and one per evaluation, without control codes. If color is
    forced, evaluations that improve are green.
    """

    def __init__(self, stream: TextIO, use_color: bool = False, every_s: float = 5.0) -> None:
        self.next_refresh = 0.0
        self._stream = SafeStream(stream)
        self._use_color = use_color
        self._every_s = every_s
        self._metrics: tuple[MetricInfo, ...] = (LOSS,)
        self._total_steps = 0

    def start(self, header: Header) -> None:
        self._total_steps, self._metrics = header.steps, header.metrics
        self._stream.write_line(f"{header.title}: {describe_run(header)}")
        self._stream.write_line(f"run directory: {header.run_dir}")
        self.next_refresh = time.perf_counter() + min(2.0, self._every_s)

    def refresh(self, state: LiveState) -> None:
        self._stream.write_line(format_state(state))
        # A long run needs fewer lines: at most about a hundred for each tenfold of its age.
        self.next_refresh = time.perf_counter() + min(max(self._every_s, state.elapsed_s / 100), 60.0)

    def show_row(self, row: Mapping[str, Any], is_best: bool = False) -> None:
        if row.get("split") == "event":
            self._stream.write_line(f"step {row.get('step')}: {row.get('event')}: {row.get('reason', '')}")
        elif row.get("split") in ("val", "test"):
            line = format_row(row, self._metrics, self._total_steps) + (", best so far" if is_best else "")
            self._stream.write_line(line, _GREEN if is_best and self._use_color else None)

    def show_message(self, text: str, warning: bool = False) -> None:
        self._stream.write_line(text, _YELLOW if warning and self._use_color else None)

    def close(self, status: str) -> None:
        self._stream.write_line(status)


def describe_run(header: Header) -> str:
    """Return model, data and layout in one line."""
    length = pluralize(f"{header.steps:,}", "step") if header.steps else "until its time is over"
    epochs = f" ({pluralize(format_epochs(header.epochs), 'epoch')})" if header.epochs else ""
    return (
        f"{header.model} with {format_count(header.parameters)} parameters on {header.data}, {header.layout}, "
        f"{length}{epochs}"
    )


def format_state(state: LiveState) -> str:
    """Return the state in one plain line without unknown values."""
    parts = [
        f"step {state.step}/{state.total_steps}" if state.total_steps else f"step {state.step}",
        f"{state.percent}%",
        f"epoch {state.epoch:.2f}",
        f"loss {format_metric(LOSS, state.loss)}",
        f"{state.metric_info.name} {format_metric(state.metric_info, state.metric)}",
        f"best {format_metric(state.metric_info, state.best)}",
        f"lr {format_learning_rate(state.learning_rate)}",
        format_throughput(state.examples_per_s),
        format_bytes(state.memory_bytes) if state.memory_bytes else "-",
        f"eta {format_seconds(state.remaining_s)}",
    ]
    return "  ".join(part for part in parts if not part.endswith("-"))


def format_row(row: Mapping[str, Any], metrics: Sequence[MetricInfo], total_steps: int) -> str:
    """Return an evaluation in one plain line."""
    step = f"{row.get('step')}/{total_steps}" if total_steps else f"{row.get('step')}"
    infos = {info.name: info for info in metrics}
    values = [
        f"{name} {format_metric(infos.get(name, LOSS), to_float(value))}"
        for name, value in row.items()
        if name not in ("step", "epoch", "examples", "wall_s", "split", "weights_step")
        and math.isfinite(to_float(value, math.inf))
    ]
    position = f"{row.get('split')} at step {step}, epoch {to_float(row.get('epoch')):.2f}"
    if row.get("weights_step", row.get("step")) != row.get("step"):
        position += f", with the best weights, of step {row['weights_step']}"
    return f"{position}: {', '.join(values) or 'no finite value'}"
