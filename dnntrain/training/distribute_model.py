"""The planned layout put in place: the device mesh, the model over its ranks, and what runs there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.collectives import start
from dnntrain.distributed.parallel_dims import Arranged, Layout, Place
from dnntrain.input.source import DataSet
from dnntrain.nn.feature_capture import Capturing
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Alone, Collectives, Executor, Parts
from dnntrain.training.loss import Objective
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.powersgd import PowerSgd


def make_mesh(
    config: RunConfig, plan: Plan, world: World, device: str
) -> tuple[Layout | None, Mesh | None, Collectives]:
    """(the chosen layout, its device mesh, its collectives); of one process that asked for no layout (None, None, the plain ones)."""
    layout = config.parallel
    if not isinstance(layout, Layout):
        return None, None, Alone()
    from dnntrain.distributed.mesh import Mesh, Together

    start(world, device, alone=True)
    mesh = Mesh(plan.degrees, device.split(":")[0])
    return layout, mesh, Together(mesh)


def place_on_ranks(
    config: RunConfig,
    plan: Plan,
    model: nn.Module,
    parts: Parts,
    layout: Layout | None,
    place: Place,
    mesh: Mesh | None,
) -> Arranged:
    """The model, laid out over the ranks, with what captures its features around it."""

    def outer(model: nn.Module) -> nn.Module:
        return Capturing(model, parts.captures) if parts.captures else model

    checkpointing = config.train.activation_checkpointing
    if layout is None and checkpointing == "none":
        return Arranged(model, [outer(model)])
    from dnntrain.distributed.parallelize import arrange

    return arrange(
        model,
        layout,
        plan.degrees,
        place,
        mesh,
        bounds=plan.stage_bounds,
        activation_checkpointing=checkpointing,
        outer=outer,
    )


def make_pipeline(
    config: RunConfig,
    plan: Plan,
    arranged: Arranged,
    objective: Objective,
    mesh: Mesh,
    place: Place,
    dataset: DataSet,
    device: str,
    autocast: torch.dtype | None,
    parts: Parts,
) -> Executor:
    """The executor of the pipeline's stages on this rank."""
    from dnntrain.distributed.pipeline_parallel import PipelineExecutor, autocast_forward

    if autocast is not None:
        for stage in arranged.run:
            autocast_forward(stage, device.split(":")[0], autocast)
    return PipelineExecutor(
        arranged.run,
        arranged.stages,
        objective,
        mesh,
        schedule=config.parallel.schedule,
        micro_batch_size=plan.micro_batch_size,
        micro_batches=plan.accumulation,
        evaluation_size=config.eval.batch_size,
        input_shape=dataset.input_shape,
        num_classes=len(dataset.class_names),
        device=device,
        counts=place.counts,
        replayable=parts.update is not None,
    )


def contexts_of(module: nn.Module, layout: Layout | None) -> Callable[[], AbstractContextManager[None]]:
    """The context of backward passes that only add up this rank's gradients."""
    if layout is None:
        return nullcontext
    from dnntrain.distributed.data_parallel import unsynchronised

    return unsynchronised(module)


def states_of(
    config: RunConfig, run: Sequence[nn.Module], world: World, warn: Callable[[str], None]
) -> Mapping[str, PowerSgd]:
    """What the layout itself carries from step to step."""
    if getattr(config.parallel, "compress", "none") != "powersgd":
        return {}
    from dnntrain.distributed.powersgd import layout_state

    return layout_state(run, world, warn)


def ready_to_evaluate(model: nn.Module, run: Sequence[nn.Module], mesh: Mesh) -> None:
    """All ranks evaluate with the same running statistics, and gather the weights that are in place now."""
    from dnntrain.distributed.data_parallel import settle, share_buffers

    share_buffers(model, mesh)
    settle(run)


def settled(run: Sequence[nn.Module]) -> None:
    """After other weights were in place: the next forward pass gathers the live ones."""
    from dnntrain.distributed.data_parallel import settle

    settle(run)
