"""Run one configuration to its result: plan, train or resume, and finish.

This works in one process or as one of several ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.run.result import RunResult
from dnntrain.run.train_part import Listener, Outcome, Say, train_part
from dnntrain.utils.messages import record_messages
from dnntrain.utils.signals import exit_on_signals
from dnntrain.utils.terminal_text import clean_line
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.display.base import Display
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.rank_group import RankGroup
    from dnntrain.run.session import Session
    from dnntrain.run.tuned_settings import TunedSettings

Value = TypeVar("Value")


class SingleRank:
    """Stand in for the group of ranks in a run of one process."""

    def run_on_all_ranks(self, name: str, body: Callable[[], Value]) -> Value:
        """Return what `body` returns."""
        return body()

    def agree_on_data(self, data: str, config: RunConfig) -> None:
        """Agree."""

    def agree_on_start(self, step: str) -> None:
        """Agree."""

    def record_start(self) -> None:
        """Record nothing: nobody restarts a single process."""

    def agree_on_cut(self, number: int, digest: str) -> None:
        """Agree."""

    def resolve_cause(self, error: BaseException) -> BaseException:
        """Return `error`: its cause is here."""
        return error

    def exit_on_signals_of_run(self, folder: Path) -> AbstractContextManager[None]:
        """End the run at a signal outside of the steps."""
        return exit_on_signals("stopped; earlier checkpoints are kept", f"resume with: dnntrain resume {folder}")


def run_training(
    make_config: Callable[[], RunConfig],
    world: World,
    *,
    display: str,
    overrides: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    tuned: TunedSettings | None = None,
) -> RunResult:
    """Train the configuration that `make_config` makes, and return the result.

    Start torchrun if the plan has several processes. Under torchrun each rank calls `make_config`
    after the ranks have met, so that all of them report the mistake of one, and all use the main
    rank's configuration. `tuned` is the file that some settings are from. Raises the DnntrainError
    that ended the run, once its state and result.json are written.
    """
    with _join_ranks(make_config, world) as (config, ranks):
        if config.launch.scheduler and not world.is_launched:
            from dnntrain.run.slurm_job import submit_job

            if tuned is not None:
                tuned.check_without_session(config)
            job = submit_job(config, list(overrides))
            return RunResult.from_json(job, job["run_dir"])
        if config.folds is not None and config.fold is None:
            if tuned is not None:
                tuned.check_without_session(config)
            return _cross_validate(config, world, display, overrides, listeners)
        from dnntrain.run.directory import RunDirectory
        from dnntrain.run.session import drop_init_weights_if_resuming, open_session
        from dnntrain.run.unfinished import write_models_of_sources

        config_of_start = drop_init_weights_if_resuming(config)
        if world.is_launched:
            # Written once, before any rank reads them.
            ranks.run_on_all_ranks(
                "source models", lambda: write_models_of_sources(config_of_start) if world.is_main else None
            )
        session = ranks.run_on_all_ranks("data and plan", lambda: open_session(config_of_start, world, tuned=tuned))
        ranks.agree_on_data(session.data.dataset.digest, config)
        directory = ranks.run_on_all_ranks(
            "run directory", lambda: RunDirectory.open(config.run_dir, config.name) if world.is_main else None
        )
        with nullcontext() if directory is None else closing(directory):
            if session.plan.ranks == 1 or world.is_launched:
                return fit(session, directory, ranks, display, overrides, listeners)
            assert directory is not None
            if listeners:
                raise ConfigError(
                    f"callbacks cannot run in the {session.plan.ranks} processes that this run starts",
                    "use parallel=single, or call train in each rank under torchrun",
                )
            return _launch_ranks(session, directory, display, overrides)


def _launch_ranks(session: Session, directory: RunDirectory, display: str, overrides: Sequence[str]) -> RunResult:
    """Start the ranks of the plan, unless the run is finished."""
    from dnntrain.display.factory import make_display
    from dnntrain.run.launcher import launch_run
    from dnntrain.run.start import find_start, prepare_directory

    # Fails here with the exit code of the reason, before the saved configuration is overwritten.
    start = find_start(session, directory.path, lambda text: None)
    if start.finished_result is not None:
        return _complete_outputs(session.without_hooks(), directory, start.finished_result, make_display(display))
    prepare_directory(directory, session, start, list(overrides))
    # The ranks read the checkpoint themselves; it would fill the memory of this process until they end.
    del start
    return launch_run(session.without_hooks(), directory, display)


def _cross_validate(
    config: RunConfig, world: World, display: str, overrides: Sequence[str], listeners: Sequence[Listener]
) -> RunResult:
    if world.is_launched:
        raise ConfigError(
            f"folds={config.folds} starts its runs itself, which torchrun does not support",
            "start one process with parallel=ddp, or one run with fold=0",
        )
    from dnntrain.run.cross_validation import cross_validate

    def train_fold(fold_config: RunConfig, words: Sequence[str]) -> RunResult:
        return run_training(lambda: fold_config, world, display=display, overrides=words, listeners=listeners)

    def say(text: str) -> None:
        if display != "quiet":
            print(clean_line(text), file=sys.stderr)

    return cross_validate(config, train_fold, overrides, say)


@contextmanager
def _join_ranks(
    make_config: Callable[[], RunConfig], world: World
) -> Iterator[tuple[RunConfig, SingleRank | RankGroup]]:
    """Return (the configuration, the ranks that share it).

    A single rank under torchrun is a rank group too: it may be the remainder of several.
    """
    if not world.is_launched:
        yield make_config(), SingleRank()
        return
    from dnntrain.run.join_ranks import join_rank_group

    with join_rank_group(make_config, world) as (config, rank_group):
        yield config, rank_group


def fit(
    session: Session,
    directory: RunDirectory | None,
    ranks: SingleRank | RankGroup,
    display_mode: str,
    overrides: Sequence[str],
    listeners: Sequence[Listener] = (),
) -> RunResult:
    """Train a planned run to its end in this process. Only the main rank has a `directory`.

    A failed run leaves result.json too, with the error and with the figures so far.
    """
    from dnntrain.display.factory import make_display
    from dnntrain.run.outputs import make_missing_outputs
    from dnntrain.run.reshape_run import reload_start, restore_shape
    from dnntrain.run.start import find_start, prepare_directory

    display = make_display(display_mode if directory is not None else "quiet")
    say, warn = _make_loggers(directory, display)
    # Every rank reads the files itself, and comes to the same conclusion.
    folder = directory.path if directory is not None else Path(str(session.config.run_dir))
    start = ranks.run_on_all_ranks("start", lambda: find_start(session, folder, warn))
    ranks.agree_on_start(start.step)
    if start.finished_result is not None:
        return _complete_outputs(session, directory, start.finished_result, display)
    if directory is not None:
        prepare_directory(directory, session, start, list(overrides))
        ranks.record_start()
    outcome = Outcome(RunResult("failed", str(folder)))
    try:
        with ranks.exit_on_signals_of_run(folder), record_messages(_get_log(directory)):
            while not outcome.is_complete:
                # A cut of the network ends a part; the next one has a trainer of its own.
                if outcome.request is not None:
                    session, start = session.with_new_hooks(), reload_start(start, folder, outcome.request)
                part_session, start, notes = restore_shape(session, start, ranks, say)
                train_part(outcome, part_session, directory, folder, start, display, notes, (say, warn), listeners)
            result = outcome.result
            return result if directory is None else make_missing_outputs(directory, session.config, result, say, warn)
    except BaseException as caught_error:
        cause = ranks.resolve_cause(caught_error)
        # A finished run stays one if its report cannot be written.
        outcome.result = outcome.result if outcome.result.status == "done" else outcome.result.with_failure(cause)
        if directory is not None:
            directory.log(str(cause))
        if cause is caught_error:
            raise
        raise cause from None
    finally:
        if directory is not None and outcome.result.status != "done":
            directory.write_result(outcome.result.as_json())
        display.close(f"status: {outcome.result.status}")


def _complete_outputs(
    session: Session, directory: RunDirectory | None, result: RunResult, display: Display
) -> RunResult:
    """Return the result of a run that is done; the main rank makes the files that it lacks."""
    from dnntrain.run.outputs import list_missing_outputs, make_missing_outputs

    if directory is None:
        return result
    say, warn = _make_loggers(directory, display)
    say("this run is done; nothing is left to train")
    if result.figures is not None and result.figures.reason is not None:
        say(f"it ended at step {result.figures.steps}: {result.figures.reason}. A greater train.duration continues it")
    if missing := list_missing_outputs(directory.path, session.config):
        say(f"making what it lacks: {', '.join(missing)}")
    return make_missing_outputs(directory, session.config, result, say, warn)


def _get_log(directory: RunDirectory | None) -> Say:
    """Return the log.txt of the run; only the main rank has one."""
    return directory.log if directory is not None else lambda text: None


def _make_loggers(directory: RunDirectory | None, display: Display) -> tuple[Say, Say]:
    """Return (say, warn), which write to log.txt and to the display.

    A quiet display shows warnings.
    """

    def say(text: str, warning: bool = False) -> None:
        if directory is not None:
            directory.log(text)
        display.show_message(text, warning)

    return say, lambda text: say(text, True)
