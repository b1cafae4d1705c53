"""Show on stderr which stage of a pipeline runs, and how long it takes."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live

from dnntrain.pipeline.stage_runs import StageRun
from dnntrain.sweep.sweep_directory import Trial, TrialStatus
from dnntrain.utils.streams import SafeStream, is_live_terminal
from dnntrain.utils.units import format_seconds

#: Seconds between lines of progress, if the display is not a live terminal.
_LINE_INTERVAL_S = 30.0


class StageDisplay:
    """Prints a line for each stage; in a terminal, its progress in place."""

    def __init__(self, mode: str, total: int) -> None:
        self._stream = SafeStream(sys.stderr)
        self._is_quiet = mode in ("quiet", "json")
        self._total = total
        self._current = ""
        self._start: tuple[int, float] | None = None
        self._next_line_s = 0.0
        self._live: Live | None = None
        if mode == "auto" and is_live_terminal(sys.stderr):
            stream: Any = self._stream
            console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
            self._live = Live(get_renderable=lambda: self._current, console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> StageDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._current = ""
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        if self._is_quiet:
            return
        if self._live is None:
            self._stream.write_line(text)
        else:
            self._live.console.print(text, soft_wrap=True)

    def show_stage(self, number: int, run: StageRun, text: str) -> None:
        """Show the stage that begins, or that is done already."""
        source = ", ".join(f"{option} from {source.label}" for option, source in run.inputs.items())
        self.say(f"{number} of {self._total}: {run.label}{f' ({source})' if source else ''}: {text}")
        self._start = None
        self._next_line_s = time.monotonic() + _LINE_INTERVAL_S

    def show_progress(self, run: StageRun, trial: Trial, status: TrialStatus) -> None:
        """Show the progress of the stage that trains."""
        now = time.monotonic()
        if status.step and self._start is None:
            self._start = (status.step, now)
        value = "" if status.metric is None else f", val {trial.metric} {status.metric:.4f}"
        total = f" of {trial.total_steps}" if trial.total_steps else ""
        self._current = f"{run.label}: step {status.step}{total}{value}{self._format_rest(trial, status.step, now)}"
        if self._live is not None:
            self._live.refresh()
        elif now >= self._next_line_s and status.step:
            self._next_line_s = now + _LINE_INTERVAL_S
            self.say(self._current)

    def _format_rest(self, trial: Trial, step: int, now: float) -> str:
        if trial.total_steps and step >= trial.total_steps:
            return "; testing and exporting"
        if self._start is None or step <= self._start[0] or not trial.total_steps:
            return ""
        pace = (now - self._start[1]) / (step - self._start[0])
        return f", about {format_seconds(pace * (trial.total_steps - step))} left"
