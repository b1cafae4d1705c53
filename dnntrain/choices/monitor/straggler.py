"""Detect a rank that all others wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from torch import Tensor, nn

from dnntrain.choices.monitor.data_stall import place_at_rank
from dnntrain.config.fields import Annotated, Literal, PositiveInt, Range, RefusedWords
from dnntrain.protocols import (
    Action,
    Alarm,
    BuildContext,
    Hooks,
    LayoutRequirement,
    MonitorChoice,
    Refusal,
    RunFacts,
    StepGuard,
    StepStats,
    StepTiming,
    TrainerHandles,
)


@dataclass(frozen=True)
class Straggler(MonitorChoice):
    """Raise an alarm if one rank is much slower than the others.

    The rank's own time must not exceed `max_ratio` times the median of the others over the last
    `every_steps` steps. Its own time is the time for preparing batches and for the host's forward
    pass, before ranks wait for each other. The result depends on the clock: its events, and a stop,
    are exempt from bitwise resume.
    """

    action: Annotated[
        Literal["log", "stop"],
        RefusedWords(
            ("skip", "rollback"),
            "does not make a rank faster: "
            "all ranks wait for the slowest one in the next step as well; use monitor.straggler.action=log or stop",
        ),
    ] = "log"  # reaction to an alarm
    max_ratio: Annotated[float, Range(above=1)] = (
        1.5  # largest accepted ratio of a rank's time to the median of the others
    )
    every_steps: PositiveInt = 50  # steps between two checks

    # If layers are sharded, ranks wait for each other in the forward pass.
    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_MODEL})

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        if facts.ranks == 1:
            yield Refusal(
                "monitor=[straggler] compares ranks, but this run has only one",
                "leave straggler out, or use parallel=ddp",
            )

    def build(self, context: BuildContext) -> Hooks:
        guard = StragglerGuard(self, context.world.rank, context.world.size)
        return Hooks(step_guards=(guard,), bindings=(guard.bind,))


class StragglerGuard(StepGuard):
    """Add up this rank's own time since the last check."""

    def __init__(
        self, options: Straggler, rank: int, ranks: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._options = options
        self._rank, self._ranks = rank, ranks
        self._clock = clock
        self.action = Action[options.action.upper()]
        self._own_s = 0.0
        self._started_s = 0.0

    def bind(self, handles: TrainerHandles) -> None:
        handles.model.register_forward_pre_hook(self._start_timer)
        handles.model.register_forward_hook(self._stop_timer)

    def _start_timer(self, model: nn.Module, inputs: Any) -> None:
        self._started_s = self._clock()

    def _stop_timer(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if model.training:
            self._own_s += self._clock() - self._started_s

    def measure(self, timing: StepTiming) -> Tensor | None:
        self._own_s += timing.wait_s
        if timing.step % self._options.every_steps:
            return None
        own_s, self._own_s = self._own_s, 0.0
        return place_at_rank(own_s, self._rank, self._ranks)

    def judge(self, stats: StepStats) -> Alarm | None:
        if len(stats.sums) < 2:
            return None
        rank, ratio = find_slowest_rank(stats.sums)
        if ratio <= self._options.max_ratio:
            return None
        reason = f"rank {rank} takes {ratio:.1f} times as long as the others"
        return Alarm("straggler", reason, self.action, {"rank": float(rank), "ratio": ratio})


def find_slowest_rank(times_s: Sequence[float]) -> tuple[int, float]:
    """Return the slowest rank, and its time over the median of the others."""
    rank = max(range(len(times_s)), key=times_s.__getitem__)
    other_times_s = [time_s for other_rank, time_s in enumerate(times_s) if other_rank != rank]
    return rank, times_s[rank] / max(median(other_times_s), 1e-9)
