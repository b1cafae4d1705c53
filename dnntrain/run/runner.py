"""`dnntrain train`: trains a run, or goes on with it, and leaves everything in its run directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dnntrain.config.decode import digest
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import CheckpointError, ConfigError, DnntrainError, Interrupted, Preempted, full_disk
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.checkpoint.checkpoint import Checkpoint, Digests
    from dnntrain.display.base import Display
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.rank_group import Ranks
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
    return train_described(lambda: config, world, display=display, overrides=overrides)


def train_described(
    configured: Callable[[], RunConfig], world: World, *, display: str, overrides: list[str] | tuple[str, ...] = ()
) -> dict[str, Any]:
    """Trains what `configured` gives: ranks call it once they have met, so that a mistake of one is told by all.

    A rank that is alone is a rank too: it may be what is left of several, and goes on where they were.
    """
    if not world.launched:
        return _train(configured(), world, display, overrides, None)
    from dnntrain.run.rank_group import train_together

    return train_together(configured, world, lambda config, ranks: _train(config, world, display, overrides, ranks))


def _train(
    config: RunConfig, world: World, display: str, overrides: list[str] | tuple[str, ...], ranks: Ranks | None
) -> dict[str, Any]:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.session import as_it_goes_on, open_session

    if config.launch.scheduler and not world.launched:
        from dnntrain.cli.commands.slurm import submit

        return submit(config, overrides)
    together = ranks.meeting.together if ranks is not None else _alone
    session = together("data and plan", lambda: open_session(as_it_goes_on(config), world))
    if ranks is not None:
        ranks.agree_on_data(session.data.dataset.digest, config)
    directory = together(
        "run directory", lambda: RunDirectory.open(config.run_dir, config.name) if world.is_main else None
    )
    try:
        if session.plan.ranks > 1 and not world.launched:
            assert directory is not None
            return _launched(session, directory, display, overrides)
        return _train_here(session, directory, display, overrides, ranks)
    finally:
        if directory is not None:
            directory.close()


def _alone(name: str, body: Callable[[], Value]) -> Value:
    """One process has nobody to do `body` together with."""
    return body()


def _launched(
    session: Session, directory: RunDirectory, display: str, overrides: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    from dnntrain.run.torchrun import launch

    # Refused here, with the exit code of the reason, and before the saved configuration is written over.
    _, finished, _ = _start_of(session, directory.path, lambda text: None)
    session.data.once.forget()
    return finished if finished is not None else launch(session, directory, display, overrides)


def _train_here(
    session: Session,
    directory: RunDirectory | None,
    display_mode: str,
    overrides: list[str] | tuple[str, ...],
    ranks: Ranks | None,
) -> dict[str, Any]:
    from dnntrain.display.factory import make_display
    from dnntrain.utils.signals import ended_by_signals

    config = session.config
    display = make_display(display_mode if directory is not None else "quiet")
    say, warn = _voices(directory, display)
    # Every rank looks at the files for itself, and so comes to the same conclusion.
    folder = directory.path if directory is not None else Path(str(config.run_dir))
    together = ranks.meeting.together if ranks is not None else _alone
    digests, finished, checkpoint = together("start", lambda: _start_of(session, folder, warn))
    if ranks is not None:
        step = "done" if finished is not None else "none" if checkpoint is None else str(checkpoint.step)
        ranks.meeting.agree("checkpoints", {"step": step})
    if finished is not None:
        say("this run is done; nothing is left to train")
        return finished
    if directory is not None:
        if checkpoint is None:
            directory.clear_checkpoints()
        elif checkpoint.path.parent.samefile(directory.checkpoints) and config.resume != "auto":
            # The run's rows end at this step from here on; what was saved after it would be gone on with after a kill.
            directory.cut_back(checkpoint.step)
        directory.write_start(config.resolved, list(overrides), session.plan.as_json())
        (directory.path / "result.json").unlink(missing_ok=True)
    result: dict[str, Any] = {"status": "failed", "run_dir": str(folder)}
    ended = ended_by_signals(f"go on with: dnntrain resume {folder}") if ranks is None else nullcontext()
    try:
        with ended:
            return _trained(session, directory, display, (say, warn), digests, checkpoint, result)
    except BaseException as met:
        error = ranks.cause(met) if ranks is not None else met
        result.update(_how_it_ended(error))
        if directory is not None:
            directory.log(str(error))
        if error is met:
            raise
        raise error from None
    finally:
        if directory is not None:
            directory.write_result(result)
        display.close(f"status: {result['status']}")


def _how_it_ended(error: BaseException) -> dict[str, Any]:
    error = full_disk(error) or error
    if isinstance(error, DnntrainError):
        return {"status": error.status, "reason": error.message, "exit_code": error.exit_code}
    return {"status": "failed", "reason": f"{type(error).__name__}: {error}", "exit_code": 1}


def _start_of(
    session: Session, folder: Path, warn: Callable[[str], None]
) -> tuple[Digests, dict[str, Any] | None, Checkpoint | None]:
    """(digests, the result where the run is done already, the checkpoint to go on from). Refuses to go on with other data or settings."""
    from dnntrain.checkpoint.checkpoint import Digests, newest, read

    config = session.config
    digests = Digests(digest(config.resolved), session.data.dataset.digest)
    finished = _already_done(folder, digests, config)
    checkpoint = None
    if finished is None and config.resume == "auto":
        checkpoint = newest(folder / "checkpoints", warn)
    elif finished is None and config.resume != "never":
        checkpoint = read(_checkpoint_path(config.resume))
    if checkpoint is not None:
        _check_same(checkpoint, digests, folder, session)
    return digests, finished, checkpoint


def _trained(
    session: Session,
    directory: RunDirectory | None,
    display: Display,
    voices: tuple[Callable[[str], None], Callable[[str], None]],
    digests: Any,
    checkpoint: Any,
    result: dict[str, Any],
) -> dict[str, Any]:
    """Builds, restores, trains, and finishes; fills `result` as it goes."""
    from dnntrain.checkpoint.checkpoint import restore
    from dnntrain.display.run_progress import Watch, header
    from dnntrain.training.rollback import run as run_loop
    from dnntrain.training.trainer import build

    (say, warn), config, plan = voices, session.config, session.plan
    trackers = [choice.build() for choice in config.track.values()] if directory is not None else []
    watch = Watch(display, plan, config)
    listeners = [watch.row, *(tracker.row for tracker in trackers)]
    trainer = build(
        config, plan, session.data, directory, session.world, session.device, digests, listeners, warn, watch.tick
    )
    progress = trainer.loop.progress
    if checkpoint is not None:
        restore(checkpoint, trainer.states)
        display.message(f"going on from step {progress.step} of {checkpoint.path}")
    elif directory is not None:
        trainer.metrics.cut_back(0)
    for tracker in trackers:
        tracker.start(result["run_dir"], config.resolved)
    display.start(header(plan, result["run_dir"]))
    try:
        with trainer.signals:
            progress.start()
            trainer.metrics.start_interval()
            watch.attach(trainer)
            run_loop(trainer, Path(result["run_dir"] or str(config.run_dir)) / "checkpoints", warn)
            _finish_training(trainer, plan)
        _raise_if_stopped(trainer, result)
        result.update(_result(session, trainer))
        if directory is not None:
            from dnntrain.run.finish import finish

            finish(session, trainer, directory, result, say, warn)
        result["status"] = "done"
        return result
    except DnntrainError as error:
        result.update({**_result(session, trainer), "status": error.status})
        raise
    finally:
        trainer.metrics.close()
        trainer.pipeline.close()
        for tracker in trackers:
            tracker.close(result)


def _finish_training(trainer: Trainer, plan: Any) -> None:
    """The events of the last step, where the run ended before its planned last step."""
    step = trainer.loop.progress.step
    if trainer.loop.progress.complete:
        trainer.metrics.train_row(step)
        if trainer.evaluator.best is not None or plan.data.val:
            trainer.evaluator(step)
    trainer.saver(step)


def _raise_if_stopped(trainer: Trainer, result: dict[str, Any]) -> None:
    import signal

    number = trainer.loop.progress.signal
    if number is None:
        return
    name = signal.Signals(number).name
    text = f"{name}: stopped after step {trainer.loop.progress.step}; saved in {result['run_dir']}"
    hint = f"go on with: dnntrain resume {result['run_dir']}"
    error = Interrupted(text, hint) if number == signal.SIGINT else Preempted(text, hint)
    error.saved = True
    raise error


def _result(session: Session, trainer: Trainer) -> dict[str, Any]:
    from dnntrain.checkpoint.digests import weights_digest
    from dnntrain.utils.hardware import peak_bytes

    progress = trainer.loop.progress
    metrics = trainer.metrics
    train_s = max(progress.train_s, 1e-9)
    return {
        "config_digest": digest(session.config.resolved),
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
        "peak_memory_mb": round(peak_bytes(session.device) / 2**20, 1),
        "estimated_memory_mb": round(session.plan.memory.total / 2**20, 1),
        "parameters": session.plan.model.parameters,
        "digest": weights_digest(trainer.model) if not session.plan.in_step else None,
    }


def _voices(directory: RunDirectory | None, display: Display) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """(say, warn): both write to log.txt and to the display; a warning is shown also where the display is quiet."""

    def say(text: str, warning: bool = False) -> None:
        if directory is not None:
            directory.log(text)
        display.message(text, warning)

    return say, lambda text: say(text, True)


def _already_done(folder: Path, digests: Any, config: RunConfig) -> dict[str, Any] | None:
    """The result of a run directory whose run is done with this very configuration."""
    from dnntrain.utils.files import read_json

    result = read_json(folder / "result.json") if config.resume == "auto" else {}
    if result.get("status") == "done" and result.get("config_digest") == digests.config:
        return {**result, "run_dir": str(folder)}
    return None


def _checkpoint_path(text: str) -> Path:
    """A checkpoint folder, or the last one of a run directory."""
    from dnntrain.checkpoint.checkpoint import pointer

    path = Path(text).expanduser()
    if (path / "manifest.json").is_file():
        return path
    last = pointer(path / "checkpoints", "LAST")
    if last is None:
        raise CheckpointError(f"resume={text} is neither a checkpoint nor a run directory with one")
    return path / "checkpoints" / last


def _check_same(checkpoint: Any, new: Any, folder: Path, session: Session) -> None:
    """Refuses to go on with other data, or with a configuration in which what cannot change has changed."""
    from dnntrain.config.decode import load_config
    from dnntrain.run.resume_checks import refused

    saved = checkpoint.digests
    if saved.data != new.data:
        from dnntrain.errors import DataError

        raise DataError(
            f"the data set has changed since {folder} was trained (digest {saved.data[:12]} → {new.data[:12]})",
            "restore the data, or train anew in another run_dir",
        )
    if saved.config == new.config:
        return
    reasons = refused(load_config(checkpoint.path.parents[1] / "config.yaml"), session.config.resolved)
    if reasons:
        raise ConfigError.of(reasons)
    _check_length(checkpoint.step, session)
    _check_same_batches(checkpoint, session)


def _check_length(done: int, session: Session) -> None:
    """Refuses a length of the run that it has gone beyond: its files would tell of a shorter training than there was."""
    total = session.plan.total_steps
    if total and done > total:
        raise ConfigError(
            f"train.duration={session.config.train.duration} is {total} steps, and {done} are done",
            f"train.duration={done}step ends the run as it is; a shorter one is trained anew in another run_dir, "
            "or from an earlier checkpoint with resume=PATH",
        )


def _check_same_batches(checkpoint: Any, session: Session) -> None:
    """Refuses a length of the run with which the steps so far would have had other batch sizes: examples would be left out or repeated."""
    from dnntrain.utils.epochs import Timetable
    from dnntrain.utils.files import read_json

    saved = read_json(checkpoint.path.parents[1] / "plan.json").get("timetable")
    if saved is None:
        return
    before = Timetable(int(saved["examples"]), tuple((int(epoch), int(size)) for epoch, size in saved["changes"]))
    if not session.plan.timetable.agrees(before, checkpoint.step):
        raise ConfigError(
            f"with train.duration={session.config.train.duration} the {checkpoint.step} steps so far would have had other batch sizes "
            "(sched.param=batch_size)",
            "lengths of a schedule of the batch size in epochs, as in sched=step sched.every=2ep, are the same in a longer run; "
            "or train anew in another run_dir",
        )
