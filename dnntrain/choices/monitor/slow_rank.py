"""A rank that all others wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from torch import Tensor, nn

from dnntrain.choices.monitor.slow_data import one_of
from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range, Refused
from dnntrain.protocols import Action, Alarm, Built, Clock, Context, Need, Parts, Seen


@dataclass(frozen=True)
class SlowRank:
    """Alarm where one rank's own time is above `factor` times the median of the others', over the last `every` steps.

    Its own time is that of preparing batches and of the host's forward pass, before ranks wait for each other. What it finds depends
    on the clock: its events, and a stop, are exempt from bitwise resume.
    """

    action: Annotated[
        Literal["log", "stop"],
        Refused(
            ("skip", "rollback"),
            "makes no rank faster: "
            "all wait for the slowest one in the next step as well; use monitor.slow_rank.action=log or stop",
        ),
    ] = "log"  # log or stop: what is done about it
    factor: Annotated[float, Range(above=1)] = 1.5  # how many times as long as the others is too slow
    every: PositiveInt = 50  # steps between two looks

    # Where layers are shared, ranks wait for each other in the forward pass.
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WHOLE_MODEL})

    def build(self, context: Context) -> Parts:
        return Parts(guards=(SlowRankGuard(self, context.world.rank, context.world.size),))


class SlowRankGuard:
    """Adds up this rank's own time since the last look."""

    sees_gradients = False

    def __init__(self, knobs: SlowRank, rank: int, ranks: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._knobs = knobs
        self._rank, self._ranks = rank, ranks
        self._clock = clock
        self.action = Action[knobs.action.upper()]
        self._own_s = 0.0
        self._started_s = 0.0

    def bind(self, built: Built) -> None:
        built.model.register_forward_pre_hook(self._start)
        built.model.register_forward_hook(self._end)

    def _start(self, model: nn.Module, inputs: Any) -> None:
        self._started_s = self._clock()

    def _end(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if model.training:
            self._own_s += self._clock() - self._started_s

    def measure(self, clock: Clock) -> Tensor | None:
        self._own_s += clock.waited_s
        if clock.step % self._knobs.every:
            return None
        own_s, self._own_s = self._own_s, 0.0
        return one_of(own_s, self._rank, self._ranks)

    def judge(self, seen: Seen) -> Alarm | None:
        if len(seen.sums) < 2:
            return None
        rank, ratio = slowest(seen.sums)
        if ratio <= self._knobs.factor:
            return None
        reason = f"rank {rank} takes {ratio:.1f} times as long as the others"
        return Alarm("slow_rank", reason, self.action, {"rank": float(rank), "ratio": ratio})


def slowest(times_s: Sequence[float]) -> tuple[int, float]:
    """(the rank that takes longest, its time over the median of the others')."""
    rank = max(range(len(times_s)), key=times_s.__getitem__)
    others = [time_s for other, time_s in enumerate(times_s) if other != rank]
    return rank, times_s[rank] / max(median(others), 1e-9)
