"""The loop, and again after each rollback: back to the last checkpoint, with the learning rate cut and the step's examples left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.checkpoint.checkpoint import newest, restore
from dnntrain.errors import DivergedError
from dnntrain.training.loop import run as run_loop
from dnntrain.training.step_guards import RolledBack

if TYPE_CHECKING:
    from dnntrain.training.trainer import Trainer


def run(trainer: Trainer, checkpoints: Path, warn: Callable[[str], None]) -> None:
    """Trains until the run is finished. Every rank reads the main rank's folder of `checkpoints`.

    Raises DivergedError where what the guards allow for is used up.
    """
    guarding = trainer.guarding
    if guarding is None or not guarding.rolls_back:
        run_loop(trainer.loop)
        return
    # There is always a state to go back to.
    trainer.saver(trainer.loop.progress.step)
    while True:
        try:
            run_loop(trainer.loop)
            return
        except RolledBack as back:
            roll_back(trainer, checkpoints, back, warn)


def roll_back(trainer: Trainer, checkpoints: Path, back: RolledBack, warn: Callable[[str], None]) -> None:
    """Restores the newest whole checkpoint from before the fault, all but the clock and what recovery has decided; writes what happened."""
    guarding, progress = trainer.guarding, trainer.loop.progress
    assert guarding is not None
    guarding.recovery.rolled_back(back.step, back.alarm)
    decided, elapsed_s = guarding.recovery.state_dict(), progress.elapsed_s
    with trainer.timer:
        checkpoint = newest(checkpoints, warn, back.alarm.good_until)
        if checkpoint is None:
            raise DivergedError(f"{back.alarm.reason}, and there is no checkpoint to go back to")
        guarding.forget()
        restore(checkpoint, trainer.states)
        guarding.recovery.load_state_dict(decided)
        progress.keep_time(elapsed_s)
        trainer.evaluator.back_among(checkpoints)
        trainer.saver.back_to(progress.step)
    trainer.loop.cadence.rewind()
    trainer.metrics.start_interval()
    reason = f"{back.alarm.reason}: back from step {back.step} to {progress.step}, learning rate × {back.alarm.cut:g}"
    if back.step in guarding.recovery.dropped:
        reason += f", the examples of step {back.step} are left out"
    values = {"lr_factor": guarding.recovery.factor, "from_step": back.step, "alarm": back.alarm.event}
    *earlier, row = guarding.recovery.tell(
        progress.step, {"event": "rollback", "reason": reason, **values, **back.alarm.values}
    )
    for told in earlier:
        trainer.metrics.put_back("event", progress.step, told)
    trainer.metrics.write("event", progress.step, row)
