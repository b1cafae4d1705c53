"""Stochastic weight averaging.

Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from dnntrain.choices.average.ema import WeightAverage, count_one_copy
from dnntrain.config.fields import Duration, Fraction, NonNegativeInt, PositiveDuration
from dnntrain.errors import ConfigError
from dnntrain.nn.precise_bn import PreciseStatistics
from dnntrain.protocols import (
    AverageChoice,
    BuildContext,
    Claim,
    Hooks,
    LayoutRequirement,
    Refusal,
    Role,
    RunFacts,
    StepInfo,
)


@dataclass(frozen=True)
class Swa(AverageChoice):
    """The mean of the weights at the ends of the last epochs.

    The mean is evaluated and exported instead of the weights. Running statistics of batch
    normalization are recomputed for it. A constant or cyclic learning rate in the averaged part of
    the run suits it best: `sched=sequence`.
    """

    start_fraction: Fraction = 0.75  # fraction of the run after which averaging starts
    every: PositiveDuration = Duration(1, "ep")  # interval between the averaged weights
    precise_bn_batches: NonNegativeInt = (
        100  # training batches that recompute the statistics of batch norm; 0: mean of the running statistics
    )

    @property
    def needs(self) -> frozenset[LayoutRequirement]:
        """Return the requirements on the layout.

        Recomputed statistics need the inputs of inner modules.
        """
        return frozenset({LayoutRequirement.FEATURES}) if self.precise_bn_batches else frozenset()

    claimed_roles: ClassVar[tuple[str, ...]] = ("EVAL_WEIGHTS",)

    def get_claims(self) -> Iterator[Claim]:
        yield Claim(Role.EVAL_WEIGHTS, "average.swa", "leave average.swa out")
        if self.precise_bn_batches:
            yield Claim(
                Role.BATCH_NORM_STATISTICS,
                f"average.swa.precise_bn_batches={self.precise_bn_batches}",
                "use average.swa.precise_bn_batches=0",
            )

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        if not facts.has_validation and not facts.has_test:
            yield Refusal(
                "average.swa replaces the weights for evaluation, but nothing is evaluated",
                "set data.val_fraction=0.1 or eval.run_test=true",
            )

    def build(self, context: BuildContext) -> Hooks:
        average = TailAverage(*make_average_times(self, context), context.total_steps)
        hooks = Hooks(
            after_step_hooks=(average,),
            eval_weights=(average,),
            state={"swa": average},
            bindings=(average.bind,),
            memory_use=(count_one_copy,),
        )
        if not self.precise_bn_batches:
            return hooks
        statistics = AveragedStatistics(self.precise_bn_batches, average)
        return replace(
            hooks,
            after_step_hooks=(average, statistics),
            eval_weights=(average, statistics),
            state={"swa": average, "swa_statistics": statistics},
            bindings=(average.bind, statistics.bind),
        )


def make_average_times(options: Swa, context: BuildContext) -> tuple[float, Callable[[int], bool]]:
    """Return the fraction at which averaging starts, and a predicate of a number of completed steps.

    The predicate is true after each multiple of `every`. With the default start, the averaged part
    is at least the last step. If no multiple of the default interval is in it, each step is one. A
    debugging run then averages the weights after its last step, whatever the interval.

    Raises ConfigError if the averaged part of any other run does not contain a multiple.
    """
    total = context.total_steps
    if options.every.unit == "s" or (options.every.unit == "%" and not total):
        raise ConfigError(
            f"average.swa.every={options.every} cannot be converted to steps", "use average.swa.every=1ep or 100step"
        )
    next_end = context.epoch_schedule.make_next_multiple(options.every, total)

    def is_due(steps_done: int) -> bool:
        return next_end(steps_done) == steps_done

    start = options.start_fraction
    if total and (start == Swa.start_fraction or context.fits_durations):
        start = min(start, (total - 1) / total)
    last = next((step for step in range(total, 0, -1) if is_due(step)), 0)
    if total and (last == 0 or last - 1 < start * total):
        if context.fits_durations:
            return start, lambda steps_done: steps_done == total
        if options.every == Swa.every:
            return start, lambda steps_done: True
        raise ConfigError(
            f"average.swa.every={options.every} leaves no weights to average "
            f"between {options.start_fraction:.0%} and the end of a run of {total} steps",
            "use average.swa.every=1step, or a longer train.duration",
        )
    return start, is_due


class TailAverage(WeightAverage):
    """average = (n * average + weights) / (n + 1).

    It is updated after the steps that `is_interval_end` selects. Averaging begins at the fraction
    `start` of the run. A run that is resumed with a greater length drops weights from before that.
    """

    def __init__(self, start: float, is_interval_end: Callable[[int], bool], total_steps: int) -> None:
        super().__init__(0.0, 1, warmup=False)
        self._start, self._ends, self._total_steps = start, is_interval_end, total_steps
        self._first_step = 0

    @property
    def average_count(self) -> int:
        """Return the number of weights in the average."""
        return self._updates

    @torch.no_grad()
    def __call__(self, step_info: StepInfo) -> None:
        if self._updates and self._is_too_early(step_info):
            self._updates = 0
        if self.is_due(step_info):
            self._first_step = self._first_step if self._updates else step_info.step
            self._update(self._updates / (self._updates + 1))
            self._updates += 1

    def is_due(self, step_info: StepInfo) -> bool:
        """Return whether the weights are averaged after this step."""
        return step_info.fraction >= self._start and self._ends(step_info.step + 1)

    def _is_too_early(self, step_info: StepInfo) -> bool:
        """Return whether the average holds weights from before `start` of the run."""
        if self._total_steps and self._first_step / self._total_steps < self._start:
            return True
        return step_info.fraction < self._start

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "first_step": self._first_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._first_step = int(state["first_step"])

    @contextmanager
    def swap_in(self, model: nn.Module) -> Iterator[None]:
        if not self._updates:
            yield
            return
        with super().swap_in(model):
            yield


class AveragedStatistics(PreciseStatistics):
    """Statistics that are recomputed once per state of the average, if there is one."""

    def __init__(self, batches: int, average: TailAverage) -> None:
        super().__init__(batches)
        self._average = average

    def __call__(self, step_info: StepInfo) -> None:
        if self._average.is_due(step_info):
            super().__call__(step_info)

    @contextmanager
    def swap_in(self, model: nn.Module) -> Iterator[None]:
        if not self._average.average_count or not self._layers:
            yield
            return
        with super().swap_in(model):
            yield
