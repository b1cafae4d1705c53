"""Evaluate on the validation split at the cadence of the configuration, and keep the best state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from dnntrain.protocols import EvalWeights, MetricInfo
from dnntrain.protocols.hook_checks import check_swap_in
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.metrics_writer import Metrics, Timer


class Evaluator:
    """Evaluate the validation split, track the best value of `metric`, and save the best state."""

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, float | int]],
        metrics: Metrics,
        checkpointer: Checkpointer,
        timer: Timer,
        metric: MetricInfo,
        best_from_step: int = 0,
    ) -> None:
        self._evaluate = evaluate
        self._metrics = metrics
        self._checkpointer = checkpointer
        self._timer = timer
        self._metric = metric
        self._best_from_step = best_from_step
        self._evaluated_step = -1
        self._is_best_of_metric = True
        self.best: float | None = None
        self.best_step = 0

    def __call__(self, step: int) -> None:
        if step == self._evaluated_step:
            return
        with self._timer:
            values = self._evaluate()
            self._evaluated_step = step
            is_best = self._consider(float(values[self._metric.name]), step)
            self._metrics.write_row("val", step, {name: item for name, item in values.items() if name != "examples"})
            if is_best:
                self._checkpointer.save_best(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self._metric.name,
            "best": self.best,
            "best_step": self.best_step,
            "evaluated_step": self._evaluated_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state["best"], int(state["best_step"])
        self._evaluated_step = int(state["evaluated_step"])
        self._is_best_of_metric = state["metric"] == self._metric.name

    def restore_best(self, rows: Iterable[Mapping[str, Any]], kept_steps: Sequence[int]) -> None:
        """Point BEST to the best state, after `load_state_dict`.

        It is chosen again from the validation rows of the checkpoints that are kept if its own is
        deleted, as after a rollback or in another run directory, or if another metric chose it.
        """
        if self.best is None or (self._is_best_of_metric and self.best_step in kept_steps):
            self._checkpointer.mark_best(None if self.best is None else self.best_step)
            return
        self.best, self.best_step = None, 0
        for row in rows:
            if row["split"] == "val" and row["step"] in kept_steps:
                self._consider(float(row[self._metric.name]), int(row["step"]))
        if self.best is None:
            # The restored state may be the best one.
            self._evaluated_step = -1
        self._checkpointer.mark_best(None if self.best is None else self.best_step)

    def _consider(self, value: float, step: int) -> bool:
        """Make the state after `step` the best one if it is; return whether it is.

        Of equally good states the later one is kept, because the schedule has settled further.
        """
        is_eligible = math.isfinite(value) and step >= self._best_from_step
        is_best = is_eligible and (self.best is None or not self._metric.is_better(self.best, value))
        if is_best:
            self.best, self.best_step = value, step
        return is_best


@contextmanager
def swap_in_eval_weights(eval_weights: Sequence[EvalWeights], model: nn.Module) -> Iterator[None]:
    """Swap in the weights that are evaluated and exported, for the body."""
    with ExitStack() as stack:
        for weights in eval_weights:
            context = weights.swap_in(model)
            check_swap_in(context, type(weights).__name__)
            stack.enter_context(context)
        yield
