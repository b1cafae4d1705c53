"""The data of a run, and the batches that are made of it: to train, to evaluate, to look at beforehand, and the empty one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dnntrain.config.run_config import RunConfig
from dnntrain.input.joint import JointPipeline
from dnntrain.input.pipeline import Pipeline, build_pipeline, evaluation_batches
from dnntrain.input.prepared import Prepared
from dnntrain.input.source import DataSet, Source
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Batch, BatchStage, Parts
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World

#: Images that data-dependent first weights are worked out from.
_SAMPLE_IMAGES = 1000


def training_pipeline(
    config: RunConfig, plan: Plan, data: Prepared, parts: Parts, world: World, device: str
) -> Pipeline:
    """The batches of the rank `world` among those that share a batch."""
    joint = [transform for transform in parts.batch if transform.joint]
    pipeline = build_pipeline(
        config.data,
        data.dataset,
        data.train,
        seed=config.seed,
        batch_size=plan.timetable.size(0),
        micro_batch_size=plan.micro_batch_size,
        world=world,
        device=device,
        channels_last=plan.channels_last,
        transforms=[transform for transform in parts.batch if not transform.joint],
        pixels=parts.pixels,
        repeats=parts.repeats,
        timetable=plan.timetable,
    )
    return JointPipeline(pipeline, joint, no_examples(data.dataset, device, parts), config.seed) if joint else pipeline


def training_batches(pipeline: Pipeline, steps: int, empty: Batch | None = None) -> Iterator[Batch]:
    """The micro-batches of this rank in the first `steps` steps of the run, as many on all ranks: `empty` fills up."""
    for step in range(min(steps, pipeline.steps_per_epoch)):
        micro, _, passes = pipeline.take(step)
        yield from micro
        if empty is not None:
            yield from [empty] * (passes - len(micro))


def no_examples(dataset: DataSet, device: str, parts: Parts) -> Batch:
    """A batch without examples: what a rank computes in a step that has none for it, so that all ranks reduce together."""
    none = np.empty(0, np.int64)
    images = torch.empty(0, *dataset.input_shape, device=device)
    batch = Batch(images, torch.empty(0, dtype=torch.int64, device=device), none, none)
    for transform in parts.batch:
        if transform.stage is BatchStage.TEACHER:
            batch = transform.apply(batch, Key(0))
    return batch


def unaugmented_batches(
    config: RunConfig, dataset: DataSet, device: str, channels_last: bool, source: Source, index: Index, world: World
) -> Any:
    """The batches of the rank `world`, as they are evaluated: in order, unaugmented."""
    return evaluation_batches(
        config.data,
        dataset,
        source,
        index,
        batch_size=config.eval.batch_size,
        world=world,
        device=device,
        channels_last=channels_last,
    )


def most_batches(examples: int, ranks: int, batch_size: int) -> int:
    """Batches of the rank that has the most, where `examples` are divided among `ranks`."""
    return math.ceil(math.ceil(examples / ranks) / batch_size)


def sample_images(config: RunConfig, data: Prepared) -> torch.Tensor:
    """Up to 1,000 training images as the model sees them, unaugmented: float [n, channels, height, width]."""
    index = data.train[:_SAMPLE_IMAGES]
    batches = unaugmented_batches(config, data.dataset, "cpu", False, data.dataset.train, index, World())
    return torch.cat([batch.images.clone() for batch in batches])
