"""Read the batches of a run so far, so that it can be resumed with another batch size."""

from __future__ import annotations

from pathlib import Path

from dnntrain.checkpoint.checkpoint_folder import get_step, list_checkpoints, read_pointer
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import CheckpointError
from dnntrain.planning.batch_size import EarlierBatches, is_batch_size_scheduled
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.sealed_json import read_sealed_json


def read_earlier_batches(config: RunConfig) -> EarlierBatches | None:
    """Return the batches of the run that `config` resumes; None if it starts, or follows a batch size schedule."""
    path = None if is_batch_size_scheduled(config) else _find_checkpoint(config)
    schedule = None if path is None else read_schedule(path.parents[1] / "plan.json")
    return None if path is None or schedule is None else EarlierBatches(schedule, get_step(path))


def read_schedule(plan_file: Path) -> EpochSchedule | None:
    """Return the batch size of each epoch that a plan names, or None. Raises CheckpointError if it is damaged."""
    timetable = read_sealed_json(plan_file).get("timetable")
    if timetable is None:
        return None
    try:
        changes = tuple((int(epoch), int(size)) for epoch, size in timetable["changes"])
        taken = tuple(map(int, timetable.get("taken", ())))
        if not changes or len(taken) not in (0, len(changes)):
            raise ValueError
        return EpochSchedule(int(timetable["examples"]), changes, bool(timetable.get("drop_last")), taken)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise CheckpointError(
            f"{plan_file} is damaged: its timetable cannot be read", "restore it from a copy"
        ) from None


def _find_checkpoint(config: RunConfig) -> Path | None:
    """Return the checkpoint that `config` resumes from, or None."""
    if config.resume == "never" or (config.resume == "auto" and config.run_dir is None):
        return None
    path = Path(config.run_dir if config.resume == "auto" else config.resume).expanduser()  # type: ignore[arg-type]
    if (path / "manifest.json").is_file():
        return path.absolute() if path.name.startswith("step-") else None
    folder = path / "checkpoints"
    last = read_pointer(folder, "LAST")
    return folder / last if last is not None else next(iter(list_checkpoints(folder)), None)
