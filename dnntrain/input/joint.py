"""Adds to each step what ranks compute together: all of them at once, also those that have no example in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dnntrain.input.pipeline import Pipeline
from dnntrain.input.resident import transformed
from dnntrain.protocols import Batch, BatchTransform, StepBatch
from dnntrain.utils.rng import Key


class JointPipeline:
    """`inner`, whose step's micro-batches go through the `transforms` as one batch; in a step without any, `empty` does.

    All ranks take the same steps in the same order. Only what a transform adds beside the batch is kept: its `extras`.
    """

    def __init__(self, inner: Pipeline, transforms: Sequence[BatchTransform], empty: Batch, seed: int) -> None:
        self._inner, self._transforms, self._empty, self._seed = inner, transforms, empty, seed
        self._taken: tuple[int, StepBatch] | None = None
        self.name = inner.name
        self.steps_per_epoch = inner.steps_per_epoch

    def take(self, step: int) -> StepBatch:
        if self._taken is None or self._taken[0] != step:
            self._taken = (step, self._joined(self._inner.take(step)))
        return self._taken[1]

    def skipped(self) -> dict[str, str]:
        return self._inner.skipped()

    def close(self) -> None:
        self._taken = None
        self._inner.close()

    def _joined(self, taken: StepBatch) -> StepBatch:
        micro = list(taken.micro) or [self._empty]
        joined = micro[0]
        if len(micro) > 1:
            joined = Batch(
                torch.cat([part.images for part in micro]),
                torch.cat([part.targets for part in micro]),
                np.concatenate([part.index for part in micro]),
                np.concatenate([part.position for part in micro]),
                joined.epoch,
            )
        key = Key(self._seed, "", joined.epoch)
        found = transformed(replace(joined, extras={}), self._transforms, key).extras
        start = 0
        for part in micro:
            own = {name: tensor[start : start + len(part)] for name, tensor in found.items()}
            part.extras = {**part.extras, **own}
            start += len(part)
        return taken
