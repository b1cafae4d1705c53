"""Train a run in phases: each has its own trainer, which begins where the one before ended.

A new phase begins as a resume does, from a checkpoint of its first step. So a run that is
interrupted and resumed around that step has the same bits as one that is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.errors import CheckpointError
from dnntrain.training.restore import restore_trainer
from dnntrain.training.rollback import run_with_rollback
from dnntrain.training.trainer import Trainer

Warn = Callable[[str], None]


class TrainerSequence:
    """The trainers of a run, one after another; `trainer` is the present one.

    `build_next(step)` builds the trainer whose phase begins at `step`.
    """

    def __init__(self, trainer: Trainer, build_next: Callable[[int], Trainer]) -> None:
        self.trainer = trainer
        self._build_next = build_next

    def train(self, run: Path, end: Callable[[Trainer], None], warn: Warn) -> Trainer:
        """Train all phases, call `end` within the last one, and return its trainer.

        Every rank reads the checkpoints of the folder `run`.
        """
        while True:
            trainer = self.trainer
            progress = trainer.loop.progress
            with trainer.signals:
                trainer.start_session()
                run_with_rollback(trainer, run / "checkpoints", warn)
                is_paused = progress.is_paused
                if is_paused:
                    trainer.checkpointer(progress.step)
                    trainer.checkpointer.wait()
                if not is_paused or trainer.signals.ends_run_at(progress.step):
                    end(trainer)
                    return trainer
            self._begin_phase(progress.step, run)

    def _begin_phase(self, step: int, run: Path) -> None:
        """Replace the trainer by that of the phase from `step`, with the state that was saved there."""
        self.trainer.close()
        path = run / "checkpoints" / f"step-{step}"
        if not path.is_dir():
            raise CheckpointError(
                f"{path} could not be saved, and the next phase of the run begins from it",
                "make room, and resume the run",
            )
        self.trainer = self._build_next(step)
        restore_trainer(self.trainer, read_checkpoint(path), run, has_changed=False)
