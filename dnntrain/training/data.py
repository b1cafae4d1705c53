"""Build the batches of a run: to train, to evaluate, to inspect, and the empty one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.collectives import reduce_any
from dnntrain.distributed.local_memory import open_local_memory
from dnntrain.input.augment import Augmentation
from dnntrain.input.decoded_cache import CachingSource
from dnntrain.input.joint import JointPipeline
from dnntrain.input.masks import make_empty_targets
from dnntrain.input.pipeline import InputPipeline, build_pipeline, read_evaluation_batches
from dnntrain.input.prepared import PreparedData
from dnntrain.input.source import DataSet, Source
from dnntrain.planning.parallelism import find_kept_block_size
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Batch, BatchStage, Hooks
from dnntrain.training.client_batches import ClientBatches
from dnntrain.utils.messages import warn_user
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World

#: Images that data-dependent initialization uses.
_SAMPLE_IMAGES = 1000


def build_training_pipeline(
    config: RunConfig, plan: Plan, data: PreparedData, hooks: Hooks, world: World, device: str
) -> InputPipeline:
    """Return the batches of the rank `world` among the ranks that share a batch; those of clients if there are any."""
    if hooks.federation is not None:
        return ClientBatches(config, plan, data, hooks, hooks.federation, device)
    joint_transforms = [transform for transform in hooks.batch_transforms if transform.is_joint]
    pipeline = build_pipeline(
        config.data,
        data.dataset,
        data.train,
        seed=config.seed,
        batch_size=plan.timetable.batch_size_at(0),
        micro_batch_size=plan.micro_batch_size,
        world=world,
        device=device,
        channels_last=plan.channels_last,
        transforms=[transform for transform in hooks.batch_transforms if not transform.is_joint],
        image_transforms=hooks.image_transforms,
        mask_transforms=hooks.mask_transforms,
        augmentation=Augmentation(hooks.crop_padding, hooks.flip_probability),
        augment_copies=hooks.augment_copies,
        kept_block_size=find_kept_block_size(config),
        joins_ranks=config.norm.joins_ranks,
        timetable=plan.timetable,
    )
    return (
        JointPipeline(pipeline, joint_transforms, make_empty_batch(data.dataset, device, hooks), config.seed)
        if joint_transforms
        else pipeline
    )


def open_shared_cache(plan: Plan, source: Source, world: World, device: str) -> None:
    """Let a source of files keep what it decodes in memory that the ranks of a machine share, if the plan says so.

    All ranks call it. If only some machines have the memory, none keeps anything.
    """
    if not isinstance(source, CachingSource) or reduce_any(not plan.data.cached, device):
        return
    source.open_cache(partial(open_local_memory, world=world, device=device))
    if not source.has_cache:
        warn_user("the system gives no memory for decoded examples, so each epoch reads the files")


def iterate_training_batches(pipeline: InputPipeline, steps: int, empty: Batch | None = None) -> Iterator[Batch]:
    """Yield the micro-batches of this rank in the first `steps` steps of the run.

    All ranks get the same number: `empty` fills up.
    """
    for step in range(min(steps, pipeline.steps_per_epoch)):
        batch = pipeline.take(step)
        yield from batch.micro_batches
        if empty is not None:
            yield from [empty] * (batch.num_passes - len(batch.micro_batches))


def make_empty_batch(dataset: DataSet, device: str, hooks: Hooks) -> Batch:
    """Return a batch without examples.

    A rank computes it in a step without examples of its own, so that all ranks reduce together. The
    network computes placeholder rows instead (`fill_empty`).
    """
    no_indices = np.empty(0, np.int64)
    inputs = dataset.inputs.make_zeros(0).to(device)
    targets = make_empty_targets(dataset).to(device)
    batch = Batch(inputs, targets, no_indices, no_indices)
    for transform in hooks.batch_transforms:
        if transform.stage is BatchStage.TEACHER:
            batch = transform.apply(batch, Key(0))
    return batch


def make_unaugmented_batches(
    config: RunConfig, dataset: DataSet, device: str, channels_last: bool, source: Source, index: Index, world: World
) -> Iterator[Batch]:
    """Return the batches of the rank `world` for evaluation: in order, without augmentation."""
    return read_evaluation_batches(
        config.data,
        dataset,
        source,
        index,
        batch_size=config.eval.batch_size,
        world=world,
        device=device,
        channels_last=channels_last,
    )


def max_batches_per_rank(examples: int, ranks: int, batch_size: int) -> int:
    """Return the batches of the rank with the most, if `examples` are divided among `ranks`."""
    return math.ceil(math.ceil(examples / ranks) / batch_size)


def load_sample_images(config: RunConfig, data: PreparedData) -> torch.Tensor:
    """Return up to 1,000 training inputs, unaugmented and normalized: float [n, …]."""
    index = data.train[:_SAMPLE_IMAGES]
    batches = make_unaugmented_batches(config, data.dataset, "cpu", False, data.dataset.train, index, World())
    return torch.cat([batch.inputs.clone() for batch in batches])
