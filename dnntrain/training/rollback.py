"""Run the training loop and restart it after each rollback.

A rollback restores the last checkpoint, reduces the learning rate and skips the step's examples.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.checkpoint.read_checkpoint import read_newest_checkpoint
from dnntrain.errors import DivergedError
from dnntrain.training.loop import run_loop
from dnntrain.training.recovery import RollbackRequest
from dnntrain.training.restore import restore_trainer
from dnntrain.utils.stop_request import WaitStopped

if TYPE_CHECKING:
    from dnntrain.training.trainer import Trainer


def run_with_rollback(trainer: Trainer, checkpoints: Path, warn: Callable[[str], None]) -> None:
    """Train until the run is finished. Every rank reads the main rank's folder of `checkpoints`.

    Raises DivergedError after the last allowed rollback.
    """
    guard_runner = trainer.guard_runner
    if guard_runner is None or not guard_runner.can_roll_back:
        _run_until_stopped(trainer)
        return
    # There is always a checkpoint to return to.
    trainer.checkpointer(trainer.loop.progress.step)
    while True:
        try:
            _run_until_stopped(trainer)
            return
        except RollbackRequest as request:
            roll_back(trainer, checkpoints, request, warn)


def _run_until_stopped(trainer: Trainer) -> None:
    """Run the loop. A signal that ends a wait for data ends it between two steps."""
    with suppress(WaitStopped):
        run_loop(trainer.loop)


def roll_back(trainer: Trainer, checkpoints: Path, request: RollbackRequest, warn: Callable[[str], None]) -> None:
    """Restore the newest complete checkpoint from before the fault, and record the rollback.

    The clock and the decisions of recovery are not restored.
    """
    guard_runner, progress = trainer.guard_runner, trainer.loop.progress
    assert guard_runner is not None
    guard_runner.recovery.record_rollback(request.step, request.alarm)
    recovery_state, elapsed_s = guard_runner.recovery.state_dict(), progress.elapsed_s
    with trainer.timer:
        trainer.checkpointer.wait()
        checkpoint = read_newest_checkpoint(checkpoints, warn, request.alarm.last_good_step)
        if checkpoint is None:
            raise DivergedError(f"{request.alarm.reason}, and there is no checkpoint to return to")
        guard_runner.clear_optimizer_state()
        # Later checkpoints know rows that are about to be removed. A kill must not leave such a pair.
        trainer.checkpointer.rewind_to(checkpoint.step)
        restore_trainer(trainer, checkpoint, checkpoints.parent, has_changed=False)
        guard_runner.recovery.load_state_dict(recovery_state)
        progress.restore_elapsed_time(elapsed_s)
    trainer.loop.cadence.rewind()
    trainer.metrics.start_interval()
    reason = (
        f"{request.alarm.reason}: rolled back from step {request.step} to {progress.step}, "
        f"learning rate × {request.alarm.lr_factor:g}"
    )
    if request.step in guard_runner.recovery.dropped_steps:
        reason += f", the examples of step {request.step} are skipped"
    values = {"lr_factor": guard_runner.recovery.lr_factor, "from_step": request.step, "alarm": request.alarm.event}
    *earlier_rows, row = guard_runner.recovery.add_rollback_row(
        progress.step, {"event": "rollback", "reason": reason, **values, **request.alarm.values}
    )
    for earlier_row in earlier_rows:
        trainer.metrics.rewrite_row("event", progress.step, earlier_row)
    trainer.metrics.write_row("event", progress.step, row)
