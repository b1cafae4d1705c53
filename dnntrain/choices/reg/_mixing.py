"""Several methods that mix examples: each example is mixed by one of them, never by two in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dnntrain.protocols import Batch, BatchStage, BatchTransform
from dnntrain.utils.rng import Index, Key


def one_mixer(transforms: Sequence[BatchTransform]) -> tuple[BatchTransform, ...]:
    """`transforms`, in which those of the stage MIX are joined to one that chooses between them."""
    mixers = [transform for transform in transforms if transform.stage is BatchStage.MIX]
    if len(mixers) < 2:
        return tuple(transforms)

    def mix(batch: Batch, key: Key) -> Batch:
        choice = key.named("mixer").integers(batch.position, len(mixers))
        results = [mixer.apply(replace(batch), key) for mixer in mixers]
        batch.images = chosen([result.images for result in results], choice)
        batch.targets = chosen([result.targets for result in results], choice)
        return batch

    joined = BatchTransform(BatchStage.MIX, mix)
    return tuple(
        sorted((item for item in (*transforms, joined) if item not in mixers), key=lambda transform: transform.stage)
    )


def chosen(tensors: Sequence[Tensor], choice: Index) -> Tensor:
    """Row i of `tensors[choice[i]]`, for each row; [n, …]."""
    result = tensors[0]
    for number, tensor in enumerate(tensors[1:], 1):
        rows = torch.from_numpy(choice == number).to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
        result = torch.where(rows, tensor, result)
    return result
