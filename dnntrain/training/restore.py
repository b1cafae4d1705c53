"""Restore a trainer from a checkpoint, and decide again whatever changed settings decide otherwise.

The best evaluation and the end of a run are decisions about rows of metrics. If a setting that they
depend on has changed since the checkpoint, its saved decisions mean something else, and the rows so
far are read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.checkpoint.checkpoint_folder import get_step, list_checkpoints
from dnntrain.checkpoint.read_checkpoint import Checkpoint, restore_states
from dnntrain.protocols import Hooks, ReplayedCallback, Stateful, StopTraining
from dnntrain.training.metrics_writer import read_rows

if TYPE_CHECKING:
    from dnntrain.training.trainer import Trainer


def restore_trainer(trainer: Trainer, checkpoint: Checkpoint, run: Path, *, has_changed: bool) -> dict[str, str] | None:
    """Load all states of `checkpoint`; every rank reads the rows and checkpoints of the folder `run`.

    `has_changed`: the configuration differs from the checkpoint's. Returns the values of an event
    row if a new length continues the run after an early end, which the callbacks then count from;
    the caller writes it once trackers are open.
    """
    restore_states(checkpoint, trainer.states)
    checkpoints, progress, metrics = run / "checkpoints", trainer.loop.progress, trainer.metrics
    is_own = checkpoint.is_of_run(run)
    if not is_own:
        metrics.truncate_to(0)
    rows = read_rows(run / "metrics.jsonl", metrics.restored_bytes) if is_own else []
    rows = [row for row in rows if "split" in row and "step" in row]
    kept_steps = [step for step in map(get_step, list_checkpoints(checkpoints)) if step <= progress.step]
    trainer.evaluator.restore_best(rows, kept_steps)
    if not has_changed:
        return None
    early_end, reason = progress.stop_reason, replay_rows(trainer.hooks, rows)
    if early_end is None or (reason is not None and not progress.has_new_length):
        return None
    progress.stop_reason = None
    if not progress.has_new_length:
        # The callbacks have counted with their new options from the start.
        return None
    return {"event": "extended", "reason": f"the run continues after its early end: {early_end}"}


def replay_rows(hooks: Hooks, rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Let the callbacks that can be replayed read all rows again; return why the last one ends the run."""
    callbacks = [callback for callback in hooks.metric_callbacks if isinstance(callback, ReplayedCallback)]
    for callback in callbacks:
        callback.reset()
    reason = None
    for row in rows:
        if row["split"] == "event":
            # A run that continued after such an end has forgotten it.
            reason = None if row["event"] == "extended" else reason
        verdicts = [callback(row) for callback in callbacks]
        reason = next((verdict.reason for verdict in verdicts if isinstance(verdict, StopTraining)), reason)
    return reason


class ReplayedStates:
    """The states of callbacks that can be replayed; those that a checkpoint lacks, or has besides, do not matter."""

    def __init__(self, callbacks: Mapping[str, Stateful]) -> None:
        self._callbacks = callbacks

    def state_dict(self) -> dict[str, Any]:
        return {name: dict(callback.state_dict()) for name, callback in self._callbacks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, callback in self._callbacks.items():
            if name in state:
                callback.load_state_dict(state[name])


def split_states(states: Mapping[str, Stateful]) -> tuple[dict[str, Stateful], ReplayedStates]:
    """Return the states of methods without those of callbacks that can be replayed, and the latter as one."""
    replayed = {name: state for name, state in states.items() if isinstance(state, ReplayedCallback)}
    return {name: state for name, state in states.items() if name not in replayed}, ReplayedStates(replayed)
