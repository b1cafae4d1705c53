"""Save checkpoints between steps, at the cadence of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dnntrain.checkpoint.checkpoint_folder import (
    mark_best,
    prune_checkpoints,
    remove_earlier_checkpoints,
    truncate_checkpoints,
)
from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.checkpoint.write_checkpoint import save_checkpoint
from dnntrain.errors import CheckpointError
from dnntrain.protocols import Stateful
from dnntrain.training.metrics_writer import Timer


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
            try:
                save_checkpoint(self._folder, step, self._states, self._digests, self._ranks)
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
                prune_checkpoints(self._folder, self._keep, self._get_rollback_targets())

    def replace_all(self, step: int) -> None:
        """Save the state after `step` steps, in place of one of that step, and remove all others."""
        self._requested_step = -1
        self(step)
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
