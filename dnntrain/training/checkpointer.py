"""Save checkpoints between steps, at the cadence of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dnntrain.checkpoint.checkpoint_folder import (
    mark_best,
    prune_checkpoints,
    remove_earlier_checkpoints,
    truncate_checkpoints,
)
from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.checkpoint.write_checkpoint import HostState, collect_state, write_state
from dnntrain.errors import CheckpointError
from dnntrain.protocols import Stateful
from dnntrain.training.background_writer import BackgroundWriter
from dnntrain.training.metrics_writer import Timer

#: Seconds that the end of a run waits for ranks that may have failed.
_CLOSE_S = 10.0


class Checkpointer:
    """Save checkpoints of all `states`.

    Every rank must call it, because states may be gathered from all; only the main rank has a
    `folder`. `get_rollback_targets` returns steps: the last checkpoint at or before each is kept
    besides the `keep` newest.
    """

    def __init__(
        self,
        folder: Path | None,
        states: Mapping[str, Stateful],
        digests: Digests,
        *,
        keep: int,
        timer: Timer,
        warn: Callable[[str], None] | None,
        ranks: RankExchange | None = None,
        get_rollback_targets: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._get_rollback_targets = get_rollback_targets
        self._folder = folder
        self._ranks = ranks or RankExchange()
        self._states = states
        self._digests = digests
        self._keep = keep
        self._timer = timer
        self._warn = warn
        self._requested_step = self._saved_step = -1

    def __call__(self, step: int) -> None:
        """Save the state after `step` steps, unless it is saved already.

        Raises CheckpointError if it cannot be written, or warns if the configuration says so.
        """
        if step == self._requested_step:
            return
        self._requested_step = step
        with self._timer:
            self._save(step)

    def wait(self) -> None:
        """Return when all checkpoints are written. Raises the CheckpointError of one that was not."""

    def close(self) -> None:
        """End the writing, after an error of the run too. Raises the CheckpointError of one that was not written."""

    def _save(self, step: int) -> None:
        self._write(step, collect_state(self._states), tuple(self._get_rollback_targets()), self._ranks)

    def _write(self, step: int, state: HostState, kept_steps: Iterable[int], ranks: RankExchange) -> None:
        """Write a checkpoint, and remove old ones."""
        try:
            write_state(self._folder, step, state, self._digests, ranks)
        except OSError as error:
            if self._warn is None:
                raise CheckpointError(
                    f"the checkpoint of step {step} cannot be saved: {error}",
                    "make room or set another run_dir; checkpoint.on_error=warn trains on without it",
                ) from error
            self._warn(f"checkpoint of step {step} was not saved: {error}; training continues")
            return
        self._saved_step = step
        if self._folder is not None:
            prune_checkpoints(self._folder, self._keep, kept_steps)

    def save_for_cut(self, step: int) -> bool:
        """Save the state after `step` steps, and return whether it could be saved. All ranks must call it."""
        self(step)
        self.wait()
        return all(self._ranks.gather_json(self._saved_step == step))

    def replace_all(self, step: int) -> None:
        """Save the state after `step` steps, in place of one of that step, and remove all others."""
        self._requested_step = -1
        self(step)
        self.wait()
        if self._folder is not None and self._saved_step == step:
            remove_earlier_checkpoints(self._folder, step)

    def rewind_to(self, step: int) -> None:
        """Continue from the checkpoint of `step`: later ones are obsolete, and may be saved again.

        All ranks must call it. Raises CheckpointError if they have read checkpoints of different
        steps.
        """
        # No checkpoint is removed before all ranks have read theirs.
        steps = self._ranks.gather_json(step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the ranks restored different steps: {', '.join(map(str, steps))}",
                "put run_dir on a file system that all nodes share",
            )
        self._requested_step = self._saved_step = -1
        if self._folder is not None:
            truncate_checkpoints(self._folder, step)

    def save_best(self, step: int) -> None:
        """Save a checkpoint, and point BEST to it."""
        self(step)
        if self._saved_step == step:
            self.mark_best(step)

    def mark_best(self, step: int | None) -> None:
        """Point BEST to the checkpoint of `step`, if there is one; None removes it."""
        if self._folder is None:
            return
        if step is None:
            (self._folder / "BEST").unlink(missing_ok=True)
        elif (self._folder / f"step-{step}").is_dir():
            mark_best(self._folder, step)


class BackgroundCheckpointer(Checkpointer):
    """Copies the state to host memory, and writes it while training continues.

    A checkpoint waits for the one before it, so that at most one copy is held. `make_writing_ranks` returns
    an exchange between ranks that the writing has to itself; it is called by all ranks at the first checkpoint.
    """

    def __init__(self, *arguments: Any, make_writing_ranks: Callable[[], RankExchange], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._writer = BackgroundWriter()
        self._make_writing_ranks = make_writing_ranks
        self._writing_ranks: RankExchange | None = None

    def _save(self, step: int) -> None:
        self.wait()
        if self._writing_ranks is None:
            self._writing_ranks = self._make_writing_ranks()
        ranks = self._writing_ranks
        state, kept_steps = collect_state(self._states), tuple(self._get_rollback_targets())
        self._writer.submit(lambda: self._write(step, state, kept_steps, ranks))

    def wait(self) -> None:
        self._writer.wait()

    def close(self) -> None:
        # The other ranks may never write a checkpoint that this one has begun.
        self._writer.wait(None if self._writing_ranks is None or self._writing_ranks.is_alone else _CLOSE_S)

    def rewind_to(self, step: int) -> None:
        self.wait()
        super().rewind_to(step)

    def save_best(self, step: int) -> None:
        self(step)
        self._writer.submit(lambda: self._mark_saved(step))

    def mark_best(self, step: int | None) -> None:
        self.wait()
        super().mark_best(step)

    def _mark_saved(self, step: int) -> None:
        if self._saved_step == step:
            super().mark_best(step)
