"""Combination of several mixing methods: each example is mixed by one of them only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dnntrain.protocols import Batch, BatchStage, BatchTransform
from dnntrain.utils.rng import Index, Key


def join_mixers(transforms: Sequence[BatchTransform]) -> tuple[BatchTransform, ...]:
    """Return `transforms` with all transforms of the stage MIX joined to one.

    For each example the joint transform chooses one of them.
    """
    mixers = [transform for transform in transforms if transform.stage is BatchStage.MIX]
    if len(mixers) < 2:
        return tuple(transforms)

    def mix_batch(batch: Batch, key: Key) -> Batch:
        choice = key.with_stream("mixer").integers(batch.position, len(mixers))
        results = [mixer.apply(replace(batch), key) for mixer in mixers]
        batch.inputs = select_rows([result.inputs for result in results], choice)
        batch.targets = select_rows([result.targets for result in results], choice)
        return batch

    joint_mixer = BatchTransform(BatchStage.MIX, mix_batch)
    return tuple(
        sorted(
            (item for item in (*transforms, joint_mixer) if item not in mixers), key=lambda transform: transform.stage
        )
    )


def select_rows(tensors: Sequence[Tensor], choice: Index) -> Tensor:
    """Return [n, …] with row i taken from `tensors[choice[i]]`."""
    result = tensors[0]
    for mixer_index, tensor in enumerate(tensors[1:], 1):
        rows = torch.from_numpy(choice == mixer_index).to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
        result = torch.where(rows, tensor, result)
    return result
