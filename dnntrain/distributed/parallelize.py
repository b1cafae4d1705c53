"""Apply parallelism to a model in a fixed order.

The order is: pipeline stages, tensor parallelism, activation checkpointing, data parallelism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from dnntrain.distributed.data_parallel import apply_fsdp, checkpoint_activations, wrap_ddp
from dnntrain.distributed.mesh import Mesh
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, ParallelizedModel, RankCoords, uses_fsdp
from dnntrain.distributed.pipeline_parallel import copy_for_stages, make_stages, merge_stages
from dnntrain.distributed.tensor_parallel import apply_tensor_parallel
from dnntrain.nn.partition import find_blocks


def get_stage_indices(coords: RankCoords, layout: ParallelConfig) -> list[int]:
    """Return the stages of this rank: every pp-th stage if it has several."""
    return [coords.pp + turn * coords.dims.pp for turn in range(layout.stages_per_rank)]


def parallelize_model(
    model: nn.Module,
    layout: ParallelConfig | None,
    dims: ParallelDims,
    coords: RankCoords,
    mesh: Mesh | None,
    *,
    bounds: Sequence[int] = (),
    activation_checkpointing: Literal["none", "selective", "full"] = "none",
    wrap_model: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> ParallelizedModel:
    """Apply the parallelism of `layout` to `model`.

    All ranks must hold the same full weights.

    Without a `layout` (one process), only activation checkpointing is applied.

    bounds      bounds of the pipeline stages, as section numbers
    wrap_model  wraps the model before data parallelism does
    """
    if layout is None or mesh is None:
        checkpoint_activations(find_blocks(model), activation_checkpointing)
        return ParallelizedModel(model, [wrap_model(model)])
    stage_indices = get_stage_indices(coords, layout) if dims.pp > 1 else [0]
    stage_models = copy_for_stages(model, len(stage_indices))
    if dims.tp > 1:
        for stage_model in stage_models:
            apply_tensor_parallel(stage_model, mesh.tensor, dims.sequence)
    stages = make_stages(model, stage_models, bounds, stage_indices) if dims.pp > 1 else []
    for stage_model in stage_models:
        checkpoint_activations(find_blocks(stage_model), activation_checkpointing)
    run_modules: list[nn.Module] = list(stages) or [wrap_model(model)]
    if uses_fsdp(layout, dims):
        run_modules = [apply_fsdp(module, find_blocks(module), layout, mesh) for module in run_modules]
    elif dims.has_whole_model:
        run_modules = [wrap_ddp(module, layout) for module in run_modules]
    return ParallelizedModel(merge_stages(model, stages), run_modules, stage_indices)
