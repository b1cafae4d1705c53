"""Training that waits for its data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range, Refused
from dnntrain.protocols import Action, Alarm, Clock, Context, Need, Parts, Seen


@dataclass(frozen=True)
class SlowData:
    """Alarm where the slowest rank spent more than `share` of the last `every` steps' time waiting for batches.

    What it finds depends on the clock: its events, and a stop, are exempt from bitwise resume.
    """

    action: Annotated[
        Literal["log", "stop"],
        Refused(
            ("skip", "rollback"),
            "makes no data arrive sooner: "
            "a step that is left out or trained again has waited all the same; use monitor.slow_data.action=log or stop",
        ),
    ] = "log"  # log or stop: what is done about it
    share: Annotated[float, Range(above=0, below=1)] = 0.3  # part of the time that may be spent waiting
    every: PositiveInt = 50  # steps between two looks

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return Parts(guards=(SlowDataGuard(self, context.world.rank, context.world.size),))


class SlowDataGuard:
    """Adds up waits since the last look."""

    sees_gradients = False

    def __init__(
        self, knobs: SlowData, rank: int = 0, ranks: int = 1, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._knobs = knobs
        self._rank, self._ranks = rank, ranks
        self._clock = clock
        self.action = Action[knobs.action.upper()]
        self._waited_s = 0.0
        self._since_s: float | None = None

    def measure(self, clock: Clock) -> Tensor | None:
        # The first step of a session waits for workers to start: it only starts the clock.
        if self._since_s is None:
            self._since_s = self._clock()
        else:
            self._waited_s += clock.waited_s
        if clock.step % self._knobs.every:
            return None
        now = self._clock()
        share = self._waited_s / max(now - self._since_s, 1e-9)
        self._waited_s, self._since_s = 0.0, now
        return one_of(share, self._rank, self._ranks)

    def judge(self, seen: Seen) -> Alarm | None:
        share = max(seen.sums, default=0.0)
        if share <= self._knobs.share:
            return None
        reason = (
            f"rank {seen.sums.index(share)} spent {share:.0%} of its time waiting for data; more data.workers may help"
        )
        return Alarm("slow_data", reason, self.action, {"waiting": share})


def one_of(value: float, rank: int, ranks: int) -> Tensor:
    """[ranks]: `value` at `rank`, else 0, so that the sum over ranks holds what each has."""
    found = torch.zeros(ranks)
    found[rank] = value
    return found
