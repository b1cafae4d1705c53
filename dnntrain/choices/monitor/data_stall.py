"""Detect training that waits for its data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range, RefusedWords
from dnntrain.protocols import (
    Action,
    Alarm,
    BuildContext,
    Hooks,
    MonitorChoice,
    StepGuard,
    StepStats,
    StepTiming,
)


@dataclass(frozen=True)
class DataStall(MonitorChoice):
    """Raise an alarm if the slowest rank spends too much time waiting for batches.

    The bound is the part `max_wait_fraction` of the time of the last `every_steps` steps. The
    result depends on the clock: its events, and a stop, are exempt from bitwise resume.
    """

    action: Annotated[
        Literal["log", "stop"],
        RefusedWords(
            ("skip", "rollback"),
            "does not make data arrive sooner: "
            "a skipped or repeated step has waited as well; use monitor.data_stall.action=log or stop",
        ),
    ] = "log"  # reaction to an alarm
    max_wait_fraction: Annotated[float, Range(above=0, below=1)] = (
        0.3  # largest accepted fraction of the time spent waiting
    )
    every_steps: PositiveInt = 50  # steps between two checks

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(step_guards=(DataStallGuard(self, context.world.rank, context.world.size),))


class DataStallGuard(StepGuard):
    """Add up waits since the last check."""

    def __init__(
        self, options: DataStall, rank: int = 0, ranks: int = 1, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._options = options
        self._rank, self._ranks = rank, ranks
        self._clock = clock
        self.action = Action[options.action.upper()]
        self._waited_s = 0.0
        self._since_s: float | None = None

    def measure(self, timing: StepTiming) -> Tensor | None:
        # The first step of a session waits for workers to start, so it only starts the clock.
        if self._since_s is None:
            self._since_s = self._clock()
        else:
            self._waited_s += timing.wait_s
        if timing.step % self._options.every_steps:
            return None
        now = self._clock()
        share = self._waited_s / max(now - self._since_s, 1e-9)
        self._waited_s, self._since_s = 0.0, now
        return place_at_rank(share, self._rank, self._ranks)

    def judge(self, stats: StepStats) -> Alarm | None:
        share = max(stats.sums, default=0.0)
        if share <= self._options.max_wait_fraction:
            return None
        reason = (
            f"rank {stats.sums.index(share)} spent {share:.0%} of its time waiting for data; "
            "more data.num_workers may help"
        )
        return Alarm("data_stall", reason, self.action, {"waiting": share})


def place_at_rank(value: float, rank: int, ranks: int) -> Tensor:
    """Return a tensor [ranks] with `value` at `rank`, else 0.

    The sum over ranks then holds the value of each rank.
    """
    values = torch.zeros(ranks)
    values[rank] = value
    return values
