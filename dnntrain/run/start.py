"""Find the start of a run: done already, from a checkpoint, or from the beginning.

A resumed run is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.checkpoint.checkpoint_folder import read_pointer
from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.read_checkpoint import Checkpoint, read_checkpoint, read_newest_checkpoint
from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import CheckpointError, ConfigError, DataError
from dnntrain.run.directory import RunDirectory
from dnntrain.run.earlier_batches import read_schedule
from dnntrain.run.outputs import MODEL_FILES
from dnntrain.run.result import RunResult
from dnntrain.run.resume_checks import find_refusals
from dnntrain.run.session import Session
from dnntrain.utils.files import remove_file
from dnntrain.utils.sealed_json import METRICS_SEAL, check_rows, read_sealed_json
from dnntrain.utils.units import pluralize


@dataclass(frozen=True)
class RunStart:
    """The start of a run: its result if it is done, or the checkpoint to resume from, or neither."""

    digests: Digests
    finished_result: RunResult | None
    checkpoint: Checkpoint | None

    @property
    def step(self) -> str:
        """The step as a text that ranks compare."""
        if self.finished_result is not None:
            return "done"
        return "none" if self.checkpoint is None else str(self.checkpoint.step)

    def is_from(self, folder: Path) -> bool:
        """Return whether the checkpoint is one of the run in `folder`."""
        return self.checkpoint is not None and self.checkpoint.is_of_run(folder)


def find_start(session: Session, folder: Path, warn: Callable[[str], None]) -> RunStart:
    """Find where the run in `folder` begins.

    Raises ConfigError or DataError if it cannot be resumed with the changed settings or data.
    """
    config = session.config
    digests = Digests(compute_digest(config.resolved), session.data.dataset.digest)
    finished_result = _read_finished_result(folder, digests, session)
    checkpoint = None
    if finished_result is None and config.resume == "auto":
        checkpoint = read_newest_checkpoint(folder / "checkpoints", warn)
    elif finished_result is None and config.resume != "never":
        checkpoint = read_checkpoint(_resolve_checkpoint(config.resume))
    if checkpoint is not None:
        _check_can_resume(checkpoint, digests, folder, session, warn)
    return RunStart(digests, finished_result, checkpoint)


def prepare_directory(directory: RunDirectory, session: Session, start: RunStart, overrides: list[str]) -> None:
    """Remove files that the start makes obsolete, and write the configuration and plan."""
    checkpoint = start.checkpoint
    if checkpoint is None or not start.is_from(directory.path):
        # The checkpoints are of an earlier run, whose rows this run removes.
        directory.clear_checkpoints()
    elif session.config.resume != "auto":
        # The run's rows end at this step from now on; a kill would otherwise bring back a later
        # checkpoint.
        directory.remove_later_checkpoints(checkpoint.step)
    directory.write_start(session.config.resolved, overrides, session.plan.as_json())
    remove_file(directory.path / "result.json")


def _read_finished_result(folder: Path, digests: Digests, session: Session) -> RunResult | None:
    """Read the result of a run directory if its run is done with this very configuration.

    If its model or its test figures are missing, the run is finished again from its last checkpoint.
    """
    config = session.config
    hint = "restore it from a copy; if you remove it, the last checkpoint is resumed"
    result = read_sealed_json(folder / "result.json", hint) if config.resume == "auto" else {}
    if result.get("status") != "done" or result.get("config_digest") != digests.config:
        return None
    check_rows(folder / "metrics.jsonl", result.get(METRICS_SEAL))
    has_test = config.eval.run_test and len(session.data.test) > 0
    names = [*MODEL_FILES, *(["evaluation.json"] if has_test else [])]
    is_missing = any(not (folder / name).is_file() for name in names)
    if is_missing and read_pointer(folder / "checkpoints", "LAST") is not None:
        return None
    return RunResult.from_json(result, str(folder))


def _resolve_checkpoint(text: str) -> Path:
    """Return a checkpoint folder, or the last checkpoint of a run directory."""
    path = Path(text).expanduser()
    if (path / "manifest.json").is_file():
        return path
    last = read_pointer(path / "checkpoints", "LAST")
    if last is None:
        raise CheckpointError(f"resume={text} is neither a checkpoint nor a run directory with one")
    return path / "checkpoints" / last


def _check_can_resume(
    checkpoint: Checkpoint, digests: Digests, folder: Path, session: Session, warn: Callable[[str], None]
) -> None:
    """Check that rows of metrics, data and configuration match the checkpoint.

    Raises an error if the rows or the data have changed, or a key that must not change.
    """
    rows = checkpoint.states.get("metrics")
    if isinstance(rows, dict) and checkpoint.is_of_run(folder):
        _check_rows_of_checkpoint(folder / "metrics.jsonl", rows, warn)
    saved_digests = checkpoint.digests
    if saved_digests.data != digests.data:
        raise DataError(
            f"the data set has changed since {folder} was trained (digest {saved_digests.data[:12]} → "
            f"{digests.data[:12]})",
            "restore the data, or start a new run in another run_dir",
        )
    if saved_digests.config == digests.config:
        return
    reasons = find_refusals(read_saved_config(checkpoint.path.parents[1]), session.config.resolved)
    if reasons:
        raise ConfigError.from_mistakes(reasons)
    _check_length(checkpoint.step, session)
    _check_batch_sizes(checkpoint, session)


def _check_rows_of_checkpoint(file: Path, saved: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Check the rows that were written before the checkpoint; the best state may be chosen from them again."""
    size_bytes, digest = saved.get("bytes"), saved.get("sha256")
    if not isinstance(size_bytes, int) or not size_bytes:
        return
    if not file.exists():
        warn(f"{file} is missing: the rows before the checkpoint are lost")
        return
    check_rows(
        file, digest, size_bytes, "restore it from a copy; if you remove it, the run is resumed without its rows"
    )


def _check_length(steps_done: int, session: Session) -> None:
    """Check that the run is not longer already than its configured length.

    Its files would otherwise describe a shorter training.
    """
    total = session.plan.total_steps
    if total and steps_done > total:
        raise ConfigError(
            f"train.duration={session.config.train.duration} is {pluralize(total, 'step')}, but the run has already completed "
            f"{steps_done}",
            f"train.duration={steps_done}step ends the run now; for a shorter run use another run_dir, "
            "or an earlier checkpoint with resume=PATH",
        )


def _check_batch_sizes(checkpoint: Checkpoint, session: Session) -> None:
    """Check that the new length does not change the batch sizes of earlier steps.

    Otherwise examples would be skipped or repeated.
    """
    old_schedule = read_schedule(checkpoint.path.parents[1] / "plan.json")
    if old_schedule is None or session.plan.timetable.is_equal_until(old_schedule, checkpoint.step):
        return
    drop_last = session.plan.timetable.drop_last
    if drop_last != old_schedule.drop_last:
        raise ConfigError(
            f"train.drop_last={str(drop_last).lower()} would change the batches of the {checkpoint.step} steps so far, "
            "because they include the end of an epoch",
            f"use train.drop_last={str(not drop_last).lower()}, or start a new run in another run_dir",
        )
    raise ConfigError(
        f"train.duration={session.config.train.duration} with train.batch_size={session.config.train.batch_size} would "
        f"change the batch sizes of the {checkpoint.step} steps so far (sched.applies_to=batch_size)",
        "give the lengths of the batch size schedule in epochs, as in sched=step sched.step_size=2ep: "
        "they do not depend on the run's length; or start a new run in another run_dir",
    )
