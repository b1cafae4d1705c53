"""What a person sees of a sweep: a live table on a terminal, plain lines in a pipe, or only what failed."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table

from dnntrain.sweep.runner import Board
from dnntrain.sweep.sweep_directory import Standing, Trial, write_results
from dnntrain.utils.streams import SafeStream, is_live_terminal
from dnntrain.utils.units import counted, format_seconds

#: Seconds between two lines about what runs.
_LINE_EVERY_S = 60.0

_COLOURS = {"done": "green", "running": "cyan", "waiting": "bright_black", "broken off": "yellow"}


class PlainBoard(Board):
    """A line where a trial begins and where it ends; results.csv after each. `quiet` keeps what failed only."""

    def __init__(
        self, folder: Path, trials: Sequence[Trial], standings: Sequence[Standing], stream: TextIO, quiet: bool = False
    ) -> None:
        super().__init__(trials, standings)
        self._folder = folder
        self._stream = SafeStream(stream)
        self._quiet = quiet
        self._started_s = [0.0] * len(self.trials)
        self._line_at = time.monotonic() + _LINE_EVERY_S

    def open(self) -> None:
        """Says what will run, and writes the first results.csv."""
        done = sum(found.done for found in self.standings)
        self._write_results()
        self.say(
            f"sweep of {counted(len(self.trials), 'trial')}{f', {done} done before' if done else ''}: {self._folder}"
        )

    def close(self) -> None:
        """Shows how all trials stand at the end."""
        if not self._quiet:
            console = Console(file=_text(self._stream), highlight=False, markup=False, emoji=False, width=110)
            console.print(table(self.trials, self.standings, self.seconds))

    def say(self, text: str, important: bool = False) -> None:
        if important or not self._quiet:
            self._stream.line(text)

    def begun(self, index: int) -> None:
        self._started_s[index] = time.monotonic()
        self._write_results()
        self.announce(f"{self.name(index)}: started")

    def over(self, index: int) -> None:
        found = self.standings[index]
        self._write_results()
        done = sum(item.done for item in self.standings)
        text = f"{self.name(index)}: {found.status}, {told(self.trials[index], found)} ({done}/{len(self.trials)} done)"
        if found.done:
            self.announce(text)
        else:
            self.say(f"{text}{_because(found)}", important=True)

    def refreshed(self) -> None:
        if time.monotonic() < self._line_at:
            return
        self._line_at = time.monotonic() + _LINE_EVERY_S
        for index, found in enumerate(self.standings):
            if found.status == "running":
                self.say(f"{self.name(index)}: {progress(self.trials[index], found)}")

    def asked_to_stop(self, number: int) -> None:
        self.say(f"{signal.Signals(number).name}: the trials save and end; again to end them at once", important=True)

    def announce(self, text: str) -> None:
        """Says what the live table shows by itself."""
        self.say(text)

    def name(self, index: int) -> str:
        trial = self.trials[index]
        return f"trial {trial.number}/{len(self.trials)} {trial.label}"

    def seconds(self, index: int) -> float:
        """How long a trial has run: by its result, else since its start here."""
        found = self.standings[index]
        if found.wall_s is not None:
            return found.wall_s
        return time.monotonic() - self._started_s[index] if self._started_s[index] else math.nan

    def _write_results(self) -> None:
        write_results(self._folder, self.trials, self.standings)


class TerminalBoard(PlainBoard):
    """The table, drawn over itself while trials run."""

    def __init__(
        self, folder: Path, trials: Sequence[Trial], standings: Sequence[Standing], stream: TextIO, quiet: bool = False
    ) -> None:
        super().__init__(folder, trials, standings, stream, quiet)
        self._console = Console(
            file=_text(self._stream), force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self._live = Live(self, console=self._console, auto_refresh=False, transient=True)

    def open(self) -> None:
        super().open()
        self._live.start()

    def close(self) -> None:
        self._live.stop()
        self._console.print(table(self.trials, self.standings, self.seconds))

    def refreshed(self) -> None:
        self._live.refresh()

    def say(self, text: str, important: bool = False) -> None:
        self._console.print(text, soft_wrap=True)

    def announce(self, text: str) -> None:
        self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        most = max(3, (options.height or console.height) - 7)
        yield table(self.trials, self.standings, self.seconds, most)


def make_board(mode: str, folder: Path, trials: Sequence[Trial], standings: Sequence[Standing]) -> PlainBoard:
    """The board for a display mode on stderr: the table where that is a terminal that can move its cursor."""
    kind = TerminalBoard if mode == "auto" and is_live_terminal(sys.stderr) else PlainBoard
    return kind(folder, trials, standings, sys.stderr, quiet=mode == "quiet")


def table(trials: Sequence[Trial], standings: Sequence[Standing], seconds: Any, most: int | None = None) -> Table:
    """One row a trial. Where there are more than `most`, those that run, then those that ended last come first."""
    metric = trials[0].metric
    made = Table(box=None, pad_edge=False, header_style="bright_black")
    figures = ("step", f"val {metric}", f"test {metric}", "time")
    for title in ("#", "trial", "status", *figures):
        right = title in ("#", *figures)
        made.add_column(title, justify="right" if right else "left", no_wrap=title != "trial", overflow="fold")
    indices = shown(standings, most)
    for index in indices:
        trial, found = trials[index], standings[index]
        total = f"/{trial.total_steps}" if trial.total_steps and found.status in ("running", "broken off") else ""
        made.add_row(
            str(trial.number),
            trial.label,
            found.status,
            f"{found.step}{total}" if found.step else "",
            number(found.best if found.best is not None else found.metric),
            number(found.value),
            "" if math.isnan(seconds(index)) else format_seconds(seconds(index)),
            style=_COLOURS.get(found.status, "red"),
        )
    if len(indices) < len(trials):
        rest = [standings[index].status for index in range(len(trials)) if index not in indices]
        made.caption = "not shown: " + ", ".join(f"{rest.count(status)} {status}" for status in dict.fromkeys(rest))
    return made


def shown(standings: Sequence[Standing], most: int | None) -> list[int]:
    """The numbers of the at most `most` trials that are shown: running, failed, then the next waiting, in their order."""
    if most is None or len(standings) <= most:
        return list(range(len(standings)))

    def rank(index: int) -> int:
        status = standings[index].status
        return {"running": 0, "waiting": 2, "broken off": 2, "done": 3}.get(status, 1)

    return sorted(sorted(range(len(standings)), key=rank)[:most])


def progress(trial: Trial, found: Standing) -> str:
    """Where a running trial is: `step 200 of 600, val accuracy 0.6319`."""
    total = f" of {trial.total_steps}" if trial.total_steps else ""
    metric = f", val {trial.metric} {number(found.metric)}" if found.metric is not None else ""
    return f"step {found.step}{total}{metric}"


def told(trial: Trial, found: Standing) -> str:
    """Steps and figures in a few words."""
    parts = [counted(found.step, "step")]
    if found.best is not None:
        parts.append(f"val {trial.metric} {number(found.best)}")
    if found.value is not None:
        parts.append(f"test {trial.metric} {number(found.value)}")
    if found.wall_s is not None:
        parts.append(format_seconds(found.wall_s))
    return ", ".join(parts)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _because(found: Standing) -> str:
    return f"\n  {found.reason}" if found.reason else ""


def _text(stream: SafeStream) -> Any:
    return stream
