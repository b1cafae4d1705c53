"""Stochastic weight averaging (Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from dnntrain.choices.reg.ema import Average
from dnntrain.config.fields import Duration, Fraction, NonNegativeInt, PositiveDuration
from dnntrain.errors import ConfigError
from dnntrain.nn.precise_bn import PreciseStatistics
from dnntrain.protocols import Context, Moment, Need, Parts


@dataclass(frozen=True)
class Swa:
    """The mean of the weights at the ends of the last epochs, evaluated and exported in their place.

    Batch normalisation's running statistics are recomputed for it. A constant or cyclic learning rate in that part of the run suits it
    best: `sched=sequence`.
    """

    start: Fraction = 0.75  # part of the run after which weights are averaged
    every: PositiveDuration = Duration(1, "ep")  # distance of the weights that are averaged
    batches: NonNegativeInt = 100  # training batches for the statistics of batch norm; 0: the mean of those that ran

    @property
    def needs(self) -> frozenset[Need]:
        """Recomputed statistics look at the inputs of inner modules."""
        return frozenset({Need.FEATURES}) if self.batches else frozenset()

    def build(self, context: Context) -> Parts:
        average = TailAverage(self.start, ends_interval(self, context))
        parts = Parts(after_step=(average,), evaluation=(average,), state={"swa": average})
        if not self.batches:
            return parts
        statistics = AveragedStatistics(self.batches, average)
        return Parts(
            after_step=(average, statistics),
            evaluation=(average, statistics),
            state={"swa": average, "swa_statistics": statistics},
        )


def ends_interval(knobs: Swa, context: Context) -> Callable[[int], bool]:
    """Whether a multiple of `every` is done after so many steps. Raises ConfigError where none lies in the averaged part of the run."""
    total = context.total_steps
    if knobs.every.unit == "s" or (knobs.every.unit == "%" and not total):
        raise ConfigError(f"reg.swa.every={knobs.every} is no number of steps", "use reg.swa.every=1ep or 100step")
    next_end = context.times.multiples(knobs.every, total)

    def due(done: int) -> bool:
        return next_end(done) == done

    last = next((step for step in range(total, 0, -1) if due(step)), 0)
    if total and (last == 0 or last - 1 < knobs.start * total):
        raise ConfigError(
            f"reg.swa.every={knobs.every} leaves no weights to average between {knobs.start:.0%} and the end "
            f"of a run of {total} steps",
            "use reg.swa.every=1step, or a longer train.duration",
        )
    return due


class TailAverage(Average):
    """average = (n * average + weights) / (n + 1), after the steps that `ends` names, from the part `start` of the run on."""

    def __init__(self, start: float, ends: Callable[[int], bool]) -> None:
        super().__init__(0.0, 1, warmup=False)
        self._start, self._ends = start, ends

    @property
    def taken(self) -> int:
        """How many weights are in the average."""
        return self._updates

    @torch.no_grad()
    def __call__(self, moment: Moment) -> None:
        if self.due(moment):
            self._update(self._updates / (self._updates + 1))
            self._updates += 1

    def due(self, moment: Moment) -> bool:
        """True where the step that began at `moment` ends with weights to be averaged."""
        return moment.fraction >= self._start and self._ends(moment.step + 1)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        if not self._updates:
            yield
            return
        with super().applied(model):
            yield


class AveragedStatistics(PreciseStatistics):
    """Recomputed once per state of the average, and only where there is one."""

    def __init__(self, batches: int, average: TailAverage) -> None:
        super().__init__(batches)
        self._average = average

    def __call__(self, moment: Moment) -> None:
        if self._average.due(moment):
            super().__call__(moment)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        if not self._average.taken or not self._layers:
            yield
            return
        with super().applied(model):
            yield
