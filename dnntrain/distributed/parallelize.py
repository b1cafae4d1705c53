"""A model placed on its ranks, in one written order: stages, tensor parallelism, activation checkpointing, data parallelism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from dnntrain.distributed.data_parallel import checkpoint_activations, data_parallel, shard
from dnntrain.distributed.mesh import Mesh
from dnntrain.distributed.parallel_dims import Arranged, Degrees, Layout, Place, uses_fsdp
from dnntrain.distributed.pipeline_parallel import copies, joined, make_stages
from dnntrain.distributed.tensor_parallel import divide
from dnntrain.nn.partition import blocks


def stage_numbers(place: Place, layout: Layout) -> list[int]:
    """The stages of this rank: every pp-th one, where it holds several."""
    return [place.pp + turn * place.degrees.pp for turn in range(layout.stages_per_rank)]


def arrange(
    model: nn.Module,
    layout: Layout | None,
    degrees: Degrees,
    place: Place,
    mesh: Mesh | None,
    *,
    bounds: Sequence[int] = (),
    activation_checkpointing: Literal["none", "selective", "full"] = "none",
    outer: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Arranged:
    """Places `model`, whose weights are whole and the same on all ranks. `outer` wraps it before data parallelism does.

    `bounds` are those of the stages, as numbers of sections. Without a `layout` (one process) only activation checkpointing is done.
    """
    if layout is None or mesh is None:
        checkpoint_activations(blocks(model), activation_checkpointing)
        return Arranged(model, [outer(model)])
    numbers = stage_numbers(place, layout) if degrees.pp > 1 else [0]
    parts = copies(model, len(numbers))
    if degrees.tp > 1:
        for part in parts:
            divide(part, mesh.tensor)
    stages = make_stages(model, parts, bounds, numbers) if degrees.pp > 1 else []
    for part in parts:
        checkpoint_activations(blocks(part), activation_checkpointing)
    run: list[nn.Module] = list(stages) or [outer(model)]
    if uses_fsdp(layout, degrees):
        run = [shard(module, blocks(module), layout, mesh) for module in run]
    elif degrees.plain:
        run = [data_parallel(module, layout) for module in run]
    return Arranged(joined(model, stages), run, numbers)
