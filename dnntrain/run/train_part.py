"""One part of a run: the trainer from its start to its last events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.errors import DnntrainError, Interrupted, Preempted
from dnntrain.run.result import RunResult, measure_training
from dnntrain.utils.signals import SignalReceived, ignore_signals

if TYPE_CHECKING:
    from dnntrain.display.base import Display
    from dnntrain.protocols import Tracker
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.session import Session
    from dnntrain.run.start import RunStart
    from dnntrain.training.phases import TrainerSequence
    from dnntrain.training.reshape import ReshapeRequest
    from dnntrain.training.trainer import Trainer

Say = Callable[[str], None]
Listener = Callable[[Mapping[str, Any]], None]


@dataclass
class Outcome:
    """The result of a run so far, and the cut at which its last part has ended, if any."""

    result: RunResult
    request: ReshapeRequest | None = None
    is_complete: bool = False


def train_part(
    outcome: Outcome,
    session: Session,
    directory: RunDirectory | None,
    folder: Path,
    start: RunStart,
    display: Display,
    notes: Mapping[str, Any] | None,
    loggers: tuple[Say, Say],
    listeners: Sequence[Listener],
) -> None:
    """Train to the next cut of the network or to the end of the run, and finish the run there."""
    from dnntrain.run.reshape_run import begin_with_cut
    from dnntrain.training.reshape import ReshapeRequest
    from dnntrain.training.step_trace import list_traces

    say, warn = loggers
    trainers, trackers = _open_trainer(session, directory, folder, start, display, warn, listeners)
    try:
        begin_with_cut(trainers.trainer, notes)
        run_last_events = partial(_run_last_events, has_validation=bool(session.plan.data.val))
        trainer = trainers.train(folder, run_last_events, warn)
        _raise_if_stopped(trainer, folder)
        skipped = _gather_skipped_examples(trainer, session.device)
        outcome.result = replace(outcome.result, figures=measure_training(session, trainer), traces=list_traces(folder))
        if directory is not None:
            from dnntrain.run.finish import finish_run

            for finished_part in finish_run(session, trainer, directory, outcome.result, skipped, say, warn):
                outcome.result = finished_part
        ignore_signals()
        done_result = replace(outcome.result, status="done")
        if directory is not None:
            directory.write_result(done_result.as_json())
        outcome.result, outcome.is_complete = done_result, True
    except ReshapeRequest as request:
        outcome.request = request
    except (DnntrainError, SignalReceived) as error:
        figures = measure_training(session, trainers.trainer)
        outcome.result = replace(outcome.result, status=error.status, figures=figures)
        raise
    finally:
        _close_trainer(trainers.trainer, trackers, outcome.result)


def _open_trainer(
    session: Session,
    directory: RunDirectory | None,
    folder: Path,
    start: RunStart,
    display: Display,
    warn: Say,
    listeners: Sequence[Listener],
) -> tuple[TrainerSequence, list[Tracker]]:
    """Build the trainer, restore the checkpoint that the run starts from, and open the trackers and the display."""
    from dnntrain.display.run_progress import RunProgress
    from dnntrain.run.background_tracker import BackgroundTracker
    from dnntrain.training.phases import TrainerSequence
    from dnntrain.training.trainer import build_trainer
    from dnntrain.training.trainer_parts import TrainerOutputs

    trackers: list[Tracker] = (
        []
        if directory is None
        else [BackgroundTracker(item.build(), item.max_wait_s) for item in session.config.track.values()]
    )
    run_progress = RunProgress(display, session.plan, session.config)
    outputs = TrainerOutputs(
        metrics=None if directory is None else directory.path / "metrics.jsonl",
        checkpoints=None if directory is None else directory.checkpoints,
        traces=folder / "traces",
        listeners=[run_progress.record_row, *(tracker.log_row for tracker in trackers), *listeners],
        warn=warn,
        tick=run_progress.tick,
    )
    start_step = 0 if start.checkpoint is None else start.checkpoint.step
    trainer = build_trainer(replace(session.setup, start_step=start_step), start.digests, outputs)
    try:
        _prepare_trainer(session, trainer, trackers, start, folder, display, directory is not None)
    except BaseException:
        trainer.metrics.close()
        raise
    run_progress.attach(trainer)

    def build_next(step: int) -> Trainer:
        setup = replace(session.with_new_hooks().setup, start_step=step)
        next_trainer = build_trainer(setup, start.digests, outputs)
        run_progress.attach(next_trainer)
        return next_trainer

    return TrainerSequence(trainer, build_next), trackers


def _prepare_trainer(
    session: Session,
    trainer: Trainer,
    trackers: Sequence[Tracker],
    start: RunStart,
    folder: Path,
    display: Display,
    writes_rows: bool,
) -> None:
    """Restore the checkpoint that the run starts from, and start the trackers and the display."""
    from dnntrain.display.run_progress import make_header
    from dnntrain.training.restore import restore_trainer

    extension: dict[str, str] | None = None
    if start.checkpoint is not None:
        has_changed = start.checkpoint.digests.config != start.digests.config
        extension = restore_trainer(trainer, start.checkpoint, folder, has_changed=has_changed)
        display.show_message(f"resuming from step {trainer.loop.progress.step} of {start.checkpoint.path}")
    elif writes_rows:
        trainer.metrics.truncate_to(0)
    for tracker in trackers:
        tracker.start(str(folder), session.config.resolved)
    display.start(make_header(session.plan, str(folder), trainer.evaluator.best))
    if extension is not None:
        trainer.metrics.write_row("event", trainer.loop.progress.step, extension)
    if start.checkpoint is not None and not start.is_from(folder):
        # From here on the run does not need the other run's folder to be resumed.
        trainer.checkpointer(trainer.loop.progress.step)


def _close_trainer(trainer: Trainer, trackers: Sequence[Tracker], result: RunResult) -> None:
    trainer.close()
    for tracker in trackers:
        tracker.close(result.as_json())


def _run_last_events(trainer: Trainer, has_validation: bool) -> None:
    """Run the events of the last step if the run ended before its planned last step, and save."""
    step = trainer.loop.progress.step
    if trainer.loop.progress.is_complete:
        trainer.metrics.write_train_row(step)
        if trainer.evaluator.best is not None or has_validation:
            trainer.evaluator(step)
    trainer.checkpointer(step)
    trainer.checkpointer.wait()
    # A signal since the last agreement of several ranks ends the run here, where all is saved.
    trainer.signals.agree_on_stop(step)


def _gather_skipped_examples(trainer: Trainer, device: str) -> dict[str, str]:
    """Return the training examples that any rank could not read, with the reasons. All ranks must call this."""
    from dnntrain.distributed.collectives import gather_bytes

    data = json.dumps(trainer.pipeline.get_skipped_examples()).encode()
    return {name: reason for part in gather_bytes(data, device) for name, reason in json.loads(part).items()}


def _raise_if_stopped(trainer: Trainer, folder: Path) -> None:
    import signal

    signal_number = trainer.loop.progress.signal
    if signal_number is None:
        return
    name = signal.Signals(signal_number).name
    text = f"{name}: stopped after step {trainer.loop.progress.step}; saved in {folder}"
    hint = f"resume with: dnntrain resume {folder}"
    error = Interrupted(text, hint) if signal_number == signal.SIGINT else Preempted(text, hint)
    error.is_saved = True
    raise error
