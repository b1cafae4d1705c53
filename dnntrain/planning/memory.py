"""Estimate the peak memory of one rank."""

from __future__ import annotations

import math
from dataclasses import replace

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.nn.cost import FORWARD_WORK
from dnntrain.planning.plan import DataFacts, Memory, ModelFacts, Plan
from dnntrain.protocols import Hooks, PrecisionPolicy

#: Examples are prepared in blocks: two float blocks of 4 MiB and one block of bytes exist at a time.
_CHUNK_BYTES = 10 * 2**20

#: Libraries that are imported after the plan: imports of torch's optimizers, and the plots of the report.
_LATER_LIBRARIES_BYTES = 270 * 2**20

#: Tensors of the size of the largest activation that a training step needs besides saved activations: gradients,
#: workspace. Measured.
TRAINING_WORK = 4.0


def estimate_memory(
    config: RunConfig,
    data: DataFacts,
    model: ModelFacts,
    micro_batch_size: int,
    policy: PrecisionPolicy,
    process_bytes: int,
    dims: ParallelDims,
) -> Memory:
    """Return the estimated peak memory of one rank.

    `process_bytes` is the memory of the process with its libraries and the data.
    """
    weights = 4 * model.parameters // (dims.shard * dims.tp * dims.pp)
    trained_weights = weights
    if config.train.unfreeze_at is None:
        trained_weights = 4 * model.trained // (dims.shard * dims.tp * dims.pp)
    half_factor = 0.5 if policy.autocast_dtype else 1.0
    kept_bytes = model.activation_bytes_per_example * half_factor
    largest_bytes = model.largest_activation_bytes * half_factor
    work_bytes = TRAINING_WORK * largest_bytes
    if model.largest_kept_bytes is not None:
        # The frozen part computes forward only.
        work_bytes = max(TRAINING_WORK * model.largest_kept_bytes * half_factor, FORWARD_WORK * largest_bytes)
    training_bytes = micro_batch_size * (kept_bytes + work_bytes)
    evaluation_bytes = min(config.eval.batch_size, max(data.val, data.test)) * FORWARD_WORK * largest_bytes
    return Memory(
        process=process_bytes - data.size_bytes + _LATER_LIBRARIES_BYTES,
        weights=weights,
        gradients=trained_weights,
        optimizer=int(trained_weights * config.optim.state_floats_per_parameter),
        averages=trained_weights * config.parallel.gradient_copies,
        activations=int(training_bytes),
        evaluation=int(evaluation_bytes),
        data=data.size_bytes + min(_CHUNK_BYTES, 4 * data.train * math.prod(data.spec.inputs.shape)),
    )


def add_method_memory(plan: Plan, hooks: Hooks) -> Plan:
    """Return `plan` with the memory of the methods, once they are built."""
    memory_uses = [measure(plan.degrees.shard) for measure in hooks.memory_use]
    memory = replace(
        plan.memory,
        averages=plan.memory.averages + plan.memory.weights * count_weight_copies(hooks, plan.degrees.shard),
        teacher_weights=sum(memory_use.weights for memory_use in memory_uses),
        teacher_activations=sum(memory_use.activations for memory_use in memory_uses),
    )
    return replace(plan, memory=memory)


def count_weight_copies(hooks: Hooks, shard_ranks: int) -> int:
    """Return the number of copies of the trained weights that the methods keep."""
    return sum(measure(shard_ranks).weight_copies for measure in hooks.memory_use)
