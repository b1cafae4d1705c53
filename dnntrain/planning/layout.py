"""Choose the layout of a run: how the ranks share the model and a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims, is_forward_collective
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.combinations import find_unmet_requirements
from dnntrain.planning.checks.federated import get_batch_dims
from dnntrain.planning.checks.parallelism import LayoutFacts, find_layout_refusals, find_sequence_refusals
from dnntrain.planning.checks.pipeline import check_pipeline
from dnntrain.planning.parallelism import compute_micro_batches, plan_parallelism
from dnntrain.planning.plan import DataFacts, ModelFacts
from dnntrain.utils.epochs import BatchSizeSchedule
from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Layout:
    """How the ranks share the model and a batch.

    needs_contiguous  whether tensors must be contiguous, which excludes channels-last
    cuts              (micro-batch size, accumulation) for each batch size of the run
    """

    dims: ParallelDims
    stage_bounds: tuple[int, ...]
    needs_contiguous: bool
    cuts: Mapping[int, tuple[int, int]]
    micro_batch_size: int
    accumulation: int
    notes: Sequence[str]


def plan_layout(
    config: RunConfig, hardware: Hardware, ranks: int, data: DataFacts, model: ModelFacts, sizes: BatchSizeSchedule
) -> Layout:
    """Return the layout. Raises ConfigError, which lists every reason, if it does not support the run."""
    dims, stage_bounds, notes = plan_parallelism(config, hardware, ranks, model, sizes.largest)
    # FSDP2 and messages between ranks of a model-parallel group support contiguous tensors only.
    needs_contiguous = is_forward_collective(config.parallel, dims)
    facts = LayoutFacts(model.convolutional, model.blocks, needs_contiguous)
    batch_dims = get_batch_dims(config, dims)
    cuts = compute_micro_batches(config, batch_dims, data.train, sizes.timetable)
    micro_batch_size, accumulation = (max(numbers) for numbers in zip(*cuts.values(), strict=True))
    if refusals := [
        *find_layout_refusals(config, hardware, batch_dims, facts, sizes),
        *find_sequence_refusals(config, dims, model.shares_sequence, data.spec.inputs.shape[0]),
        *find_unmet_requirements(config, batch_dims, micro_batch_size, sizes),
    ]:
        raise ConfigError.from_mistakes([str(refusal) for refusal in refusals])
    check_pipeline(config, dims, model, sizes.timetable, micro_batch_size, accumulation)
    return Layout(dims, stage_bounds, needs_contiguous, cuts, micro_batch_size, accumulation, notes)
