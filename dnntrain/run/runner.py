"""`dnntrain train`: trains a run, or goes on with it, and leaves everything in its run directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dnntrain.config.decode import compute_digest
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import CheckpointError, ConfigError, DnntrainError, Interrupted, Preempted, convert_disk_full_error
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.checkpoint.checkpoint import Checkpoint, Digests
    from dnntrain.display.base import Display
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.rank_group import RankGroup
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer

Value = TypeVar("Value")


def train(
    config: RunConfig, world: World, *, display: str, overrides: list[str] | tuple[str, ...] = ()
) -> dict[str, Any]:
    """Trains `config` and returns its result (result.json, and the run directory under "run_dir").

    Starts torchrun where the plan wants several processes; under torchrun all ranks use the main rank's configuration.
    Raises the DnntrainError that ended the run, after its state and result.json are written.
    """
    return train_from_factory(lambda: config, world, display=display, overrides=overrides)


def train_from_factory(
    make_config: Callable[[], RunConfig], world: World, *, display: str, overrides: list[str] | tuple[str, ...] = ()
) -> dict[str, Any]:
    """Trains what `configured` gives: ranks call it once they have met, so that a mistake of one is told by all.

    A rank that is alone is a rank too: it may be what is left of several, and goes on where they were.
    """
    if not world.is_launched:
        return _run(make_config(), world, display, overrides, None)
    from dnntrain.run.rank_group import train_on_ranks

    return train_on_ranks(make_config, world, lambda config, ranks: _run(config, world, display, overrides, ranks))


def _run(
    config: RunConfig, world: World, display: str, overrides: list[str] | tuple[str, ...], rank_group: RankGroup | None
) -> dict[str, Any]:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    if config.launch.scheduler and not world.is_launched:
        from dnntrain.run.slurm_job import submit_job

        return submit_job(config, overrides)
    run_together = rank_group.rendezvous.run_on_all_ranks if rank_group is not None else _run_alone
    session = run_together("data and plan", lambda: open_session(drop_init_weights_if_resuming(config), world))
    if rank_group is not None:
        rank_group.agree_on_data(session.data.dataset.digest, config)
    directory = run_together(
        "run directory", lambda: RunDirectory.open(config.run_dir, config.name) if world.is_main else None
    )
    try:
        if session.plan.ranks > 1 and not world.is_launched:
            assert directory is not None
            return _launch_ranks(session, directory, display, overrides)
        return _run_in_process(session, directory, display, overrides, rank_group)
    finally:
        if directory is not None:
            directory.close()


def _run_alone(name: str, body: Callable[[], Value]) -> Value:
    """One process has nobody to do `body` together with."""
    return body()


def _launch_ranks(
    session: Session, directory: RunDirectory, display: str, overrides: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    from dnntrain.run.torchrun import launch_run

    # Refused here, with the exit code of the reason, and before the saved configuration is written over.
    _, finished_result, _ = _find_start(session, directory.path, lambda text: None)
    session = session.without_hooks()
    return finished_result if finished_result is not None else launch_run(session, directory, display, overrides)


def _run_in_process(
    session: Session,
    directory: RunDirectory | None,
    display_mode: str,
    overrides: list[str] | tuple[str, ...],
    rank_group: RankGroup | None,
) -> dict[str, Any]:
    from dnntrain.display.factory import make_display
    from dnntrain.utils.signals import exit_on_signals

    config = session.config
    display = make_display(display_mode if directory is not None else "quiet")
    say, warn = _make_loggers(directory, display)
    # Every rank looks at the files for itself, and so comes to the same conclusion.
    folder = directory.path if directory is not None else Path(str(config.run_dir))
    run_together = rank_group.rendezvous.run_on_all_ranks if rank_group is not None else _run_alone
    digests, finished_result, checkpoint = run_together("start", lambda: _find_start(session, folder, warn))
    if rank_group is not None:
        step = "done" if finished_result is not None else "none" if checkpoint is None else str(checkpoint.step)
        rank_group.rendezvous.check_agreement("checkpoints", {"step": step})
    if finished_result is not None:
        say("this run is done; nothing is left to train")
        return finished_result
    if directory is not None:
        if checkpoint is None:
            directory.clear_checkpoints()
        elif checkpoint.path.parent.samefile(directory.checkpoints) and config.resume != "auto":
            # The run's rows end at this step from here on; what was saved after it would be gone on with after a kill.
            directory.remove_later_checkpoints(checkpoint.step)
        directory.write_start(config.resolved, list(overrides), session.plan.as_json())
        (directory.path / "result.json").unlink(missing_ok=True)
    result: dict[str, Any] = {"status": "failed", "run_dir": str(folder)}
    signal_context = exit_on_signals(f"go on with: dnntrain resume {folder}") if rank_group is None else nullcontext()
    try:
        with signal_context:
            return _fit(session, directory, display, (say, warn), digests, checkpoint, result)
    except BaseException as caught_error:
        error = rank_group.resolve_cause(caught_error) if rank_group is not None else caught_error
        result.update(_make_failure_fields(error))
        if directory is not None:
            directory.log(str(error))
        if error is caught_error:
            raise
        raise error from None
    finally:
        if directory is not None:
            directory.write_result(result)
        display.close(f"status: {result['status']}")


def _make_failure_fields(error: BaseException) -> dict[str, Any]:
    error = convert_disk_full_error(error) or error
    if isinstance(error, DnntrainError):
        return {"status": error.status, "reason": error.message, "exit_code": error.exit_code}
    return {"status": "failed", "reason": f"{type(error).__name__}: {error}", "exit_code": 1}


def _find_start(
    session: Session, folder: Path, warn: Callable[[str], None]
) -> tuple[Digests, dict[str, Any] | None, Checkpoint | None]:
    """(digests, the result where the run is done already, the checkpoint to go on from). Refuses to go on with other data or settings."""
    from dnntrain.checkpoint.checkpoint import Digests, read_checkpoint, read_newest_checkpoint

    config = session.config
    digests = Digests(compute_digest(config.resolved), session.data.dataset.digest)
    finished_result = _read_finished_result(folder, digests, config)
    checkpoint = None
    if finished_result is None and config.resume == "auto":
        checkpoint = read_newest_checkpoint(folder / "checkpoints", warn)
    elif finished_result is None and config.resume != "never":
        checkpoint = read_checkpoint(_resolve_checkpoint(config.resume))
    if checkpoint is not None:
        _check_can_resume(checkpoint, digests, folder, session)
    return digests, finished_result, checkpoint


def _fit(
    session: Session,
    directory: RunDirectory | None,
    display: Display,
    loggers: tuple[Callable[[str], None], Callable[[str], None]],
    digests: Any,
    checkpoint: Any,
    result: dict[str, Any],
) -> dict[str, Any]:
    """Builds, restores, trains, and finishes; fills `result` as it goes."""
    from dnntrain.checkpoint.checkpoint import restore_states
    from dnntrain.display.run_progress import RunProgress, make_header
    from dnntrain.training.rollback import run_with_rollback
    from dnntrain.training.trainer import TrainerOutputs, build_trainer

    (say, warn), config, plan = loggers, session.config, session.plan
    trackers = [choice.build() for choice in config.track.values()] if directory is not None else []
    run_progress = RunProgress(display, plan, config)
    listeners = [run_progress.record_row, *(tracker.log_row for tracker in trackers)]
    outputs = TrainerOutputs(listeners=listeners, warn=warn, tick=run_progress.tick)
    if directory is not None:
        outputs = replace(outputs, metrics=directory.path / "metrics.jsonl", checkpoints=directory.checkpoints)
    trainer = build_trainer(session.setup, digests, outputs)
    progress = trainer.loop.progress
    if checkpoint is not None:
        restore_states(checkpoint, trainer.states)
        display.show_message(f"going on from step {progress.step} of {checkpoint.path}")
    elif directory is not None:
        trainer.metrics.truncate_to(0)
    for tracker in trackers:
        tracker.start(result["run_dir"], config.resolved)
    display.start(make_header(plan, result["run_dir"]))
    try:
        with trainer.signals:
            progress.start()
            trainer.metrics.start_interval()
            run_progress.attach(trainer)
            run_with_rollback(trainer, Path(result["run_dir"] or str(config.run_dir)) / "checkpoints", warn)
            _run_last_events(trainer, plan)
        _raise_if_stopped(trainer, result)
        result.update(_make_result(session, trainer))
        if directory is not None:
            from dnntrain.run.finish import finish_run

            finish_run(session, trainer, directory, result, say, warn)
        result["status"] = "done"
        return result
    except DnntrainError as error:
        result.update({**_make_result(session, trainer), "status": error.status})
        raise
    finally:
        trainer.metrics.close()
        trainer.pipeline.close()
        for tracker in trackers:
            tracker.close(result)


def _run_last_events(trainer: Trainer, plan: Any) -> None:
    """The events of the last step, where the run ended before its planned last step."""
    step = trainer.loop.progress.step
    if trainer.loop.progress.is_complete:
        trainer.metrics.write_train_row(step)
        if trainer.evaluator.best is not None or plan.data.val:
            trainer.evaluator(step)
    trainer.checkpointer(step)


def _raise_if_stopped(trainer: Trainer, result: dict[str, Any]) -> None:
    import signal

    signal_number = trainer.loop.progress.signal
    if signal_number is None:
        return
    name = signal.Signals(signal_number).name
    text = f"{name}: stopped after step {trainer.loop.progress.step}; saved in {result['run_dir']}"
    hint = f"go on with: dnntrain resume {result['run_dir']}"
    error = Interrupted(text, hint) if signal_number == signal.SIGINT else Preempted(text, hint)
    error.is_saved = True
    raise error


def _make_result(session: Session, trainer: Trainer) -> dict[str, Any]:
    from dnntrain.checkpoint.digests import compute_weights_digest
    from dnntrain.utils.hardware import read_peak_bytes

    progress = trainer.loop.progress
    metrics = trainer.metrics
    train_s = max(progress.train_s, 1e-9)
    return {
        "config_digest": compute_digest(session.config.resolved),
        "metric": session.config.eval.metric,
        "best": trainer.evaluator.best,
        "best_step": trainer.evaluator.best_step,
        "reason": progress.stop_reason,
        "steps": progress.step,
        "epochs": round(progress.timetable.epoch_at(progress.step), 4),
        "examples_per_s": round(metrics.examples / train_s, 1),
        "step_ms": round(1000 * train_s / max(progress.step, 1), 4),
        "train_s": round(train_s, 3),
        "wall_s": round(progress.elapsed_s, 3),
        "peak_memory_mb": round(read_peak_bytes(session.device) / 2**20, 1),
        "estimated_memory_mb": round(session.plan.memory.total / 2**20, 1),
        "parameters": session.plan.model.parameters,
        "digest": compute_weights_digest(trainer.model) if not session.plan.has_collective_forward else None,
    }


def _make_loggers(
    directory: RunDirectory | None, display: Display
) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """(say, warn): both write to log.txt and to the display; a warning is shown also where the display is quiet."""

    def say(text: str, warning: bool = False) -> None:
        if directory is not None:
            directory.log(text)
        display.show_message(text, warning)

    return say, lambda text: say(text, True)


def _read_finished_result(folder: Path, digests: Any, config: RunConfig) -> dict[str, Any] | None:
    """The result of a run directory whose run is done with this very configuration."""
    from dnntrain.utils.files import read_json

    result = read_json(folder / "result.json") if config.resume == "auto" else {}
    if result.get("status") == "done" and result.get("config_digest") == digests.config:
        return {**result, "run_dir": str(folder)}
    return None


def _resolve_checkpoint(text: str) -> Path:
    """A checkpoint folder, or the last one of a run directory."""
    from dnntrain.checkpoint.checkpoint import read_pointer

    path = Path(text).expanduser()
    if (path / "manifest.json").is_file():
        return path
    last = read_pointer(path / "checkpoints", "LAST")
    if last is None:
        raise CheckpointError(f"resume={text} is neither a checkpoint nor a run directory with one")
    return path / "checkpoints" / last


def _check_can_resume(checkpoint: Any, digests: Any, folder: Path, session: Session) -> None:
    """Refuses to go on with other data, or with a configuration in which what cannot change has changed."""
    from dnntrain.config.decode import load_config
    from dnntrain.run.resume_checks import find_refusals

    saved_digests = checkpoint.digests
    if saved_digests.data != digests.data:
        from dnntrain.errors import DataError

        raise DataError(
            f"the data set has changed since {folder} was trained (digest {saved_digests.data[:12]} → {digests.data[:12]})",
            "restore the data, or train anew in another run_dir",
        )
    if saved_digests.config == digests.config:
        return
    reasons = find_refusals(load_config(checkpoint.path.parents[1] / "config.yaml"), session.config.resolved)
    if reasons:
        raise ConfigError.from_mistakes(reasons)
    _check_length(checkpoint.step, session)
    _check_batch_sizes(checkpoint, session)


def _check_length(steps_done: int, session: Session) -> None:
    """Refuses a length of the run that it has gone beyond: its files would tell of a shorter training than there was."""
    total = session.plan.total_steps
    if total and steps_done > total:
        raise ConfigError(
            f"train.duration={session.config.train.duration} is {total} steps, and {steps_done} are done",
            f"train.duration={steps_done}step ends the run as it is; a shorter one is trained anew in another run_dir, "
            "or from an earlier checkpoint with resume=PATH",
        )


def _check_batch_sizes(checkpoint: Any, session: Session) -> None:
    """Refuses a length of the run with which the steps so far would have had other batch sizes: examples would be left out or repeated."""
    from dnntrain.utils.epochs import EpochSchedule
    from dnntrain.utils.files import read_json

    saved_schedule = read_json(checkpoint.path.parents[1] / "plan.json").get("timetable")
    if saved_schedule is None:
        return
    old_schedule = EpochSchedule(
        int(saved_schedule["examples"]), tuple((int(epoch), int(size)) for epoch, size in saved_schedule["changes"])
    )
    if not session.plan.timetable.is_equal_until(old_schedule, checkpoint.step):
        raise ConfigError(
            f"with train.duration={session.config.train.duration} the {checkpoint.step} steps so far would have had other batch sizes "
            "(sched.param=batch_size)",
            "lengths of a schedule of the batch size in epochs, as in sched=step sched.every=2ep, are the same in a longer run; "
            "or train anew in another run_dir",
        )
