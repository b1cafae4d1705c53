"""Apply transforms that all ranks compute together.

Ranks with no example in a step take part too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dnntrain.input.pipeline import InputPipeline
from dnntrain.input.resident import apply_transforms, mark_transforms
from dnntrain.protocols import Batch, BatchTransform, PhaseMarker, StepBatch
from dnntrain.utils.rng import Key


class JointPipeline:
    """Passes the micro-batches of a step of `inner` through `transforms` as one batch.

    A step without micro-batches passes `empty`, so that all ranks take the same steps in the same
    order. Of the result only the `extras` of the transforms are kept.
    """

    def __init__(self, inner: InputPipeline, transforms: Sequence[BatchTransform], empty: Batch, seed: int) -> None:
        self._inner, self._transforms, self._empty, self._seed = inner, transforms, empty, seed
        self._cached_step: tuple[int, StepBatch] | None = None
        self.name = inner.name
        self.steps_per_epoch = inner.steps_per_epoch

    def take(self, step: int) -> StepBatch:
        if self._cached_step is None or self._cached_step[0] != step:
            self._cached_step = (step, self._apply_jointly(self._inner.take(step)))
        return self._cached_step[1]

    def get_skipped_examples(self) -> dict[str, str]:
        return self._inner.get_skipped_examples()

    def mark_phases(self, mark: PhaseMarker) -> None:
        self._transforms = mark_transforms(self._transforms, mark)
        self._inner.mark_phases(mark)

    def close(self) -> None:
        self._cached_step = None
        self._inner.close()

    def _apply_jointly(self, step_batch: StepBatch) -> StepBatch:
        micro_batches = list(step_batch.micro_batches) or [self._empty]
        whole_batch = micro_batches[0]
        if len(micro_batches) > 1:
            whole_batch = Batch(
                torch.cat([micro_batch.inputs for micro_batch in micro_batches]),
                torch.cat([micro_batch.targets for micro_batch in micro_batches]),
                np.concatenate([micro_batch.index for micro_batch in micro_batches]),
                np.concatenate([micro_batch.position for micro_batch in micro_batches]),
                whole_batch.epoch,
            )
        key = Key(self._seed, "", whole_batch.epoch)
        extras = apply_transforms(replace(whole_batch, extras={}), self._transforms, key).extras
        start = 0
        for micro_batch in micro_batches:
            micro_batch_extras = {name: tensor[start : start + len(micro_batch)] for name, tensor in extras.items()}
            micro_batch.extras = {**micro_batch.extras, **micro_batch_extras}
            start += len(micro_batch)
        return step_batch
