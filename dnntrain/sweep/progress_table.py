"""Show a sweep as a live table, as plain lines, or only its failures."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from dnntrain.display.console import CleanConsole, CleanLive
from dnntrain.sweep.sweep_directory import Trial, TrialStatus, write_results
from dnntrain.sweep.trial_runner import ProgressTable
from dnntrain.sweep.trial_text import describe_progress, format_value, list_best, summarize_trial
from dnntrain.utils.streams import SafeStream, is_live_terminal
from dnntrain.utils.terminal_text import clean_line
from dnntrain.utils.units import format_seconds, pluralize

#: Seconds between two lines about running trials.
_LINE_INTERVAL_S = 60.0

_COLORS = {"done": "green", "running": "cyan", "waiting": "bright_black", "broken off": "yellow"}


class PlainProgressTable(ProgressTable):
    """Prints a line when a trial starts and ends, and writes results.csv after each.

    `quiet` prints failures only.
    """

    def __init__(
        self,
        folder: Path,
        trials: Sequence[Trial],
        statuses: Sequence[TrialStatus],
        stream: TextIO,
        quiet: bool = False,
    ) -> None:
        super().__init__(trials, statuses)
        self._folder = folder
        self._output = stream
        self._stream = SafeStream(stream)
        self._quiet = quiet
        self._start_times = [0.0] * len(self.trials)
        self._line_at = time.monotonic() + _LINE_INTERVAL_S

    def add_trial(self, trial: Trial, status: TrialStatus) -> None:
        super().add_trial(trial, status)
        self._start_times.append(0.0)

    def open(self) -> None:
        """Print the trials to run, and write the first results.csv."""
        num_done = sum(status.is_done for status in self.statuses)
        self._write_results()
        self.say(
            f"sweep of {pluralize(self.total, 'trial')}"
            f"{f', {num_done} done before' if num_done else ''}: {self._folder}"
        )

    def close(self) -> None:
        """Print the final status of all trials."""
        if not self._quiet:
            console = CleanConsole(self._output, width=110)
            console.print(make_table(self.trials, self.statuses, self.get_elapsed_s, console.options.ascii_only))

    def say(self, text: str, important: bool = False) -> None:
        if important or not self._quiet:
            self._stream.write_line(text)

    def on_trial_start(self, index: int) -> None:
        self._start_times[index] = time.monotonic()
        self._write_results()
        self.announce(f"{self.format_name(index)}: started")

    def on_trial_end(self, index: int) -> None:
        status = self.statuses[index]
        self._write_results()
        num_done = sum(other.is_done for other in self.statuses)
        text = (
            f"{self.format_name(index)}: {status.status}, {summarize_trial(self.trials[index], status)} "
            f"({num_done}/{self.total} done)"
        )
        if status.is_done:
            self.announce(text)
        else:
            self.say(f"{text}{_format_reason(status)}", important=True)

    def on_refresh(self) -> None:
        if time.monotonic() < self._line_at:
            return
        self._line_at = time.monotonic() + _LINE_INTERVAL_S
        for index, status in enumerate(self.statuses):
            if status.status == "running":
                self.say(f"{self.format_name(index)}: {describe_progress(self.trials[index], status)}")

    def on_signal(self, signal_number: int) -> None:
        self.say(
            f"{signal.Signals(signal_number).name}: the trials save and stop; repeat the signal to end them at once",
            important=True,
        )

    def announce(self, text: str) -> None:
        """Print a message that the live table shows by itself."""
        self.say(text)

    def format_name(self, index: int) -> str:
        trial = self.trials[index]
        return f"trial {trial.number}/{self.total} {trial.label}"

    def get_elapsed_s(self, index: int) -> float:
        """Return how long a trial has run: by its result, else since its start here."""
        status = self.statuses[index]
        if status.wall_s is not None:
            return status.wall_s
        return time.monotonic() - self._start_times[index] if self._start_times[index] else math.nan

    def _write_results(self) -> None:
        write_results(self._folder, self.trials, self.statuses)


class LiveProgressTable(PlainProgressTable):
    """A table that is redrawn in place while trials run."""

    def __init__(
        self,
        folder: Path,
        trials: Sequence[Trial],
        statuses: Sequence[TrialStatus],
        stream: TextIO,
        quiet: bool = False,
    ) -> None:
        super().__init__(folder, trials, statuses, stream, quiet)
        self._console = CleanConsole(stream, force_terminal=True)
        self._live = CleanLive(self, console=self._console, auto_refresh=False, transient=True)

    def open(self) -> None:
        super().open()
        self._live.start()

    def close(self) -> None:
        self._live.stop()
        is_ascii = self._console.options.ascii_only
        self._console.print(make_table(self.trials, self.statuses, self.get_elapsed_s, is_ascii))

    def on_refresh(self) -> None:
        self._live.refresh()

    def say(self, text: str, important: bool = False) -> None:
        self._console.print(text, soft_wrap=True)

    def announce(self, text: str) -> None:
        self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        max_rows = max(3, (options.height or console.height) - 7)
        yield make_table(self.trials, self.statuses, self.get_elapsed_s, options.ascii_only, max_rows)


def make_progress_table(
    mode: str, folder: Path, trials: Sequence[Trial], statuses: Sequence[TrialStatus]
) -> PlainProgressTable:
    """Return the display for stderr: the live table if that is a live terminal."""
    table_class = LiveProgressTable if mode == "auto" and is_live_terminal(sys.stderr) else PlainProgressTable
    return table_class(folder, trials, statuses, sys.stderr, quiet=mode == "quiet")


def make_table(
    trials: Sequence[Trial],
    statuses: Sequence[TrialStatus],
    get_elapsed_s: Callable[[int], float],
    ascii_only: bool = False,
    max_rows: int | None = None,
) -> Table:
    """Return a table with one row per trial.

    With more than `max_rows` trials, the rows of `select_rows` are shown. A star marks those of
    `list_best`.
    """
    metric = trials[0].metric if trials else "metric"
    rich_table = Table(box=None, pad_edge=False, header_style="bright_black")
    best, mark = list_best(trials, statuses), "*" if ascii_only else "★"
    figures = ("step", f"val {metric}", "", f"test {metric}", "time")
    for title in ("#", "trial", "status", *figures):
        is_right = title in ("#", *figures)
        rich_table.add_column(title, justify="right" if is_right else "left", no_wrap=title != "trial", overflow="fold")
    notes = [f"{mark} best val {metric}"] if best else []
    indices = select_rows(statuses, max_rows)
    for index in indices:
        trial, trial_status = trials[index], statuses[index]
        total = (
            f"/{trial.total_steps}" if trial.total_steps and trial_status.status in ("running", "broken off") else ""
        )
        rich_table.add_row(
            str(trial.number),
            clean_line(trial.label),
            clean_line(trial_status.status),
            f"{trial_status.step}{total}" if trial_status.step else "",
            format_value(trial, trial_status.best if trial_status.best is not None else trial_status.metric),
            mark if index in best else "",
            format_value(trial, trial_status.value),
            "" if math.isnan(get_elapsed_s(index)) else format_seconds(get_elapsed_s(index)),
            style=_COLORS.get(trial_status.status, "red"),
        )
    if len(indices) < len(trials):
        hidden_statuses = [statuses[index].status for index in range(len(trials)) if index not in indices]
        counts = (f"{hidden_statuses.count(status)} {status}" for status in dict.fromkeys(hidden_statuses))
        notes.append(f"not shown: {', '.join(counts)}")
    rich_table.caption = "; ".join(notes) or None
    return rich_table


def select_rows(statuses: Sequence[TrialStatus], max_rows: int | None) -> list[int]:
    """Return the indices of at most `max_rows` trials to show, in order.

    Running trials are preferred, then failed ones, then the next waiting ones.
    """
    if max_rows is None or len(statuses) <= max_rows:
        return list(range(len(statuses)))

    def get_priority(index: int) -> int:
        status = statuses[index].status
        return {"running": 0, "waiting": 2, "broken off": 2, "done": 3}.get(status, 1)

    return sorted(sorted(range(len(statuses)), key=get_priority)[:max_rows])


def _format_reason(status: TrialStatus) -> str:
    return f"\n  {status.reason}" if status.reason else ""
