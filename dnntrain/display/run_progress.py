"""Connect a run to its display: rows as they are written, a live state between them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dnntrain.config.run_config import RunConfig
from dnntrain.display.base import Display, Header, LiveState
from dnntrain.planning.plan import Plan
from dnntrain.utils.hardware import read_peak_bytes

if TYPE_CHECKING:
    from dnntrain.training.trainer import Trainer


def make_header(plan: Plan, run_dir: str, best: float | None = None) -> Header:
    """Return the facts that the display shows once, at the start; `best` is the best metric so far."""
    return Header(
        title=plan.name,
        model=plan.model.name,
        data=plan.data.name,
        layout=f"{plan.layout}, {plan.precision.name}",
        parameters=plan.model.parameters,
        steps=plan.total_steps,
        epochs=plan.timetable.epoch_at(plan.total_steps),
        run_dir=run_dir,
        metrics=plan.metrics,
        best=math.nan if best is None else best,
    )


class RunProgress:
    """Keep the newest values of a run and show them at each row and when the display is due."""

    def __init__(self, display: Display, plan: Plan, config: RunConfig) -> None:
        self._display = display
        self._plan = plan
        self._metric = plan.metrics[0]
        self._trainer: Trainer | None = None
        self._train: Mapping[str, Any] = {}
        self._val: Mapping[str, Any] = {}

    def attach(self, trainer: Trainer) -> None:
        """Begin to show `trainer`."""
        self._trainer = trainer

    def record_row(self, row: Mapping[str, Any]) -> None:
        """Record a new row of metrics."""
        if row["split"] == "train":
            self._train = row
        elif row["split"] == "val":
            self._val = row
        self._display.show_row(row, is_best=row["split"] == "val" and row["step"] == self._find_best_step())
        self.tick(int(row["step"]))

    def _find_best_step(self) -> int | None:
        evaluator = None if self._trainer is None else self._trainer.evaluator
        return None if evaluator is None or evaluator.best is None else evaluator.best_step

    def tick(self, step: int) -> None:
        """Redraw if the display is due."""
        if time.perf_counter() < self._display.next_refresh or self._trainer is None:
            return
        progress = self._trainer.loop.progress
        done, total = step, progress.total_steps
        fraction = done / total if total else min(progress.elapsed_s / progress.budget_s, 1.0)
        session_steps = max(done - progress.session_start_step, 1)
        eta_s = (total - done) * progress.session_s / session_steps if total else progress.budget_s - progress.elapsed_s
        self._display.refresh(
            LiveState(
                step=done,
                total_steps=total,
                epoch=progress.timetable.epoch_at(done),
                total_epochs=progress.timetable.epoch_at(total),
                fraction=fraction,
                elapsed_s=progress.elapsed_s,
                eta_s=max(eta_s, 0.0),
                loss=float(self._train.get("loss", float("nan"))),
                metric_info=self._metric,
                metric=float(self._val.get(self._metric.name, float("nan"))),
                best=self._trainer.evaluator.best if self._trainer.evaluator.best is not None else float("nan"),
                learning_rate=float(self._train.get("lr", float("nan"))),
                examples_per_s=float(self._train.get("examples_per_s", float("nan"))),
                memory_bytes=read_peak_bytes(self._plan.device),
            )
        )
