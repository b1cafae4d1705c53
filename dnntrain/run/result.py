"""The result of a run: result.json, with its keys in the order in which they become known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from dnntrain.config.digest import compute_digest
from dnntrain.errors import DnntrainError
from dnntrain.utils.explain_error import explain_error
from dnntrain.utils.sealed_json import METRICS_SEAL, SEAL

if TYPE_CHECKING:
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingFigures:
    """The figures of the training: length, speed and metrics.

    `reason` says why it ended early, if it did.
    """

    config_digest: str
    metric: str
    best: float | None
    best_step: int
    reason: str | None
    steps: int
    epochs: float
    examples_per_s: float
    step_ms: float
    train_s: float
    wall_s: float
    peak_memory_mb: float
    estimated_memory_mb: float
    parameters: int
    digest: str | None


@dataclass(frozen=True)
class RunFailure:
    """The error that ended a run, as result.json has it."""

    reason: str
    exit_code: int


@dataclass(frozen=True)
class RunResult:
    """The end of a run, or its state so far.

    status   done, diverged, preempted, …
    run_dir  the run directory
    job      the number of the batch job, if one was submitted
    figures  those of the training, once there are any
    test     the figures of the test split, by name
    export   the integer export that the run wrote
    traces   the files of train.profile, by their names in the run directory
    failure  the error that ended it
    """

    status: str
    run_dir: str
    job: str | None = None
    figures: TrainingFigures | None = None
    test: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] | None = None
    traces: tuple[str, ...] = ()
    failure: RunFailure | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the keys of result.json."""
        values: dict[str, Any] = {"status": self.status}
        if self.job is not None:
            values["job"] = self.job
        values["run_dir"] = self.run_dir
        if self.figures is not None:
            values |= asdict(self.figures)
        values |= self.test
        if self.export is not None:
            values["export"] = dict(self.export)
        if self.traces:
            values["traces"] = list(self.traces)
        if self.failure is not None:
            values |= asdict(self.failure)
        return values

    def with_failure(self, error: BaseException) -> RunResult:
        """Return the result of the run if `error` ends it here."""
        error = explain_error(error) or error
        if isinstance(error, DnntrainError):
            return replace(self, status=error.status, failure=RunFailure(error.message, error.exit_code))
        return replace(self, status="failed", failure=RunFailure(f"{type(error).__name__}: {error}", 1))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], run_dir: str) -> RunResult:
        """Read the result in a run directory, which may have been moved since."""
        names = [item.name for item in fields(TrainingFigures)]
        has_figures = all(name in values for name in names)
        known_names = {
            "status",
            "run_dir",
            "job",
            "export",
            "traces",
            "reason",
            "exit_code",
            SEAL,
            METRICS_SEAL,
            *names,
        }
        return cls(
            status=str(values["status"]),
            run_dir=run_dir,
            job=values.get("job"),
            figures=TrainingFigures(**{name: values[name] for name in names}) if has_figures else None,
            test={name: value for name, value in values.items() if name not in known_names},
            export=values.get("export"),
            traces=tuple(values.get("traces", ())),
            failure=RunFailure(str(values.get("reason")), values["exit_code"]) if "exit_code" in values else None,
        )


def measure_training(session: Session, trainer: Trainer) -> TrainingFigures:
    """Return the figures of the training so far."""
    from dnntrain.checkpoint.digests import compute_weights_digest
    from dnntrain.utils.hardware import read_peak_bytes

    progress, metrics, plan = trainer.loop.progress, trainer.metrics, session.plan
    train_s = max(progress.train_s, 1e-9)
    return TrainingFigures(
        config_digest=compute_digest(session.config.resolved),
        metric=session.config.eval.metric,
        best=trainer.evaluator.best,
        best_step=trainer.evaluator.best_step,
        reason=progress.stop_reason,
        steps=progress.step,
        epochs=round(progress.timetable.epoch_at(progress.step), 4),
        examples_per_s=round(metrics.examples / train_s, 1),
        step_ms=round(1000 * train_s / max(progress.step, 1), 4),
        train_s=round(train_s, 3),
        wall_s=round(progress.elapsed_s, 3),
        peak_memory_mb=round(read_peak_bytes(session.device) / 2**20, 1),
        estimated_memory_mb=round(plan.memory.total / 2**20, 1),
        parameters=_count_parameters(session),
        digest=None if plan.has_collective_forward else compute_weights_digest(trainer.model),
    )


def _count_parameters(session: Session) -> int:
    """Return the numbers in the model, which a cut may have made smaller than the plan says."""
    from dnntrain.nn.cost import count_parameters
    from dnntrain.nn.shape import ModelShape
    from dnntrain.training.reshape import get_widths
    from dnntrain.training.setup import build_unfilled_model

    if get_widths(session.hooks).is_whole:
        return session.plan.model.parameters
    return count_parameters(
        build_unfilled_model(session.config, ModelShape.from_spec(session.data.spec), session.hooks)
    )
