"""The memory that a plan expects one rank to need at its peak."""

from __future__ import annotations

import math
from dataclasses import replace

from dnntrain.choices.precision._policy import Policy
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import Degrees
from dnntrain.nn.cost import FORWARD_WORK
from dnntrain.planning.plan import DataFacts, Memory, ModelFacts, Plan
from dnntrain.protocols import Parts

#: Examples are prepared in blocks: two of 4 MiB as floats and one of bytes are alive.
_CHUNK_BYTES = 10 * 2**20

#: Libraries that are imported after the plan: what torch's optimizers bring along, and the plots of the report.
_LATER_LIBRARIES_BYTES = 270 * 2**20

#: Tensors of the size of the largest activation that a training step holds besides what it keeps: gradients, work space. Measured.
TRAINING_WORK = 4.0


def memory_of(
    config: RunConfig,
    data: DataFacts,
    model: ModelFacts,
    micro: int,
    policy: Policy,
    process_bytes: int,
    degrees: Degrees,
) -> Memory:
    weights = 4 * model.parameters // (degrees.shard * degrees.tp * degrees.pp)
    half = 0.5 if policy.autocast else 1.0
    kept = model.activation_bytes_per_example * half
    largest = model.largest_activation_bytes * half
    training = micro * (kept + TRAINING_WORK * largest)
    evaluating = min(config.eval.batch_size, max(data.val, data.test)) * FORWARD_WORK * largest
    return Memory(
        process=process_bytes - data.bytes + _LATER_LIBRARIES_BYTES,
        weights=weights,
        gradients=weights,
        optimizer=int(weights * config.optim.state_numbers),
        averages=weights if "ema" in config.reg else 0,
        activations=int(training),
        evaluation=int(evaluating),
        data=data.bytes + min(_CHUNK_BYTES, 4 * data.train * math.prod(data.input_shape)),
    )


def with_teacher(plan: Plan, parts: Parts) -> Plan:
    """`plan` with the memory of what teaches: it is known once the methods are built."""
    held = [held(plan.degrees.shard) for held in parts.held]
    memory = replace(
        plan.memory,
        teacher_weights=sum(item.weights for item in held),
        teacher_activations=sum(item.activations for item in held),
    )
    return replace(plan, memory=memory)
