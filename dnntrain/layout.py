"""The planned layout put in place: the device mesh, the model over its ranks, and what runs there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from dnntrain.batches import Prepared, sample_images
from dnntrain.capture import Capturing
from dnntrain.config.run import RunConfig
from dnntrain.data.source import DataSet
from dnntrain.divisible import sections
from dnntrain.errors import ConfigError
from dnntrain.model.cost import unfilled
from dnntrain.model.shape import ModelShape
from dnntrain.objective import Objective
from dnntrain.parallel.communicate import start
from dnntrain.parallel.degrees import Arranged, Layout, Place
from dnntrain.planned import Plan
from dnntrain.protocols import Alone, Collectives, Executor, Parts
from dnntrain.world import World

if TYPE_CHECKING:
    from dnntrain.parallel.mesh import Mesh
    from dnntrain.parallel.powersgd import PowerSgd


def check_stages(config: RunConfig, plan: Plan, data: Prepared, parts: Parts) -> None:
    """Raises ConfigError where a rank of the pipeline would hold nothing that is trained."""
    ranks = plan.degrees.pp
    if ranks == 1:
        return
    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = unfilled(lambda: config.model.build(shape))
    for transform in parts.model:
        model = transform.apply(model)
    images = sample_images(config, data) if parts.first_weights else torch.empty(0)
    for set_weights in parts.first_weights:
        set_weights(model, images)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    owners = [section.owns for section in sections(model)]
    parts_of_rank = [
        [own for stage in range(rank, len(plan.stage_bounds) - 1, ranks) for own in _owned(plan, owners, stage)]
        for rank in range(ranks)
    ]
    for rank, owned in enumerate(parts_of_rank):
        others = [own for part in parts_of_rank if part is not owned for own in part]
        if all(_within(name, others) for name in trained):
            frozen = " besides those that reg.whitening keeps as they are" if parts.first_weights else ""
            raise ConfigError(
                f"stage {rank} of parallel.pp={ranks} holds no weights that are trained{frozen}",
                f"use {f'parallel.pp={ranks - 1}' if ranks > 2 else 'parallel=ddp'}"
                + (", or reg.whitening.freeze=false" if frozen else ""),
            )


def _owned(plan: Plan, owners: Sequence[Sequence[str]], stage: int) -> Iterator[str]:
    """Names of the modules and parameters that the sections of this stage own."""
    for names in owners[plan.stage_bounds[stage] : plan.stage_bounds[stage + 1]]:
        yield from names


def _within(name: str, owners: Sequence[str]) -> bool:
    return any(name == own or name.startswith(f"{own}.") for own in owners)


def make_mesh(
    config: RunConfig, plan: Plan, world: World, device: str
) -> tuple[Layout | None, Mesh | None, Collectives]:
    """(the chosen layout, its device mesh, its collectives); of one process that asked for no layout (None, None, the plain ones)."""
    layout = config.parallel
    if not isinstance(layout, Layout):
        return None, None, Alone()
    from dnntrain.parallel.mesh import Mesh, Together

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
    from dnntrain.parallel.arrange import arrange

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
    from dnntrain.parallel.pipeline import PipelineExecutor, autocast_forward

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
    from dnntrain.parallel.wrap import unsynchronised

    return unsynchronised(module)


def states_of(
    config: RunConfig, run: Sequence[nn.Module], world: World, warn: Callable[[str], None]
) -> Mapping[str, PowerSgd]:
    """What the layout itself carries from step to step."""
    if getattr(config.parallel, "compress", "none") != "powersgd":
        return {}
    from dnntrain.parallel.powersgd import layout_state

    return layout_state(run, world, warn)


def ready_to_evaluate(model: nn.Module, run: Sequence[nn.Module], mesh: Mesh) -> None:
    """All ranks evaluate with the same running statistics, and gather the weights that are in place now."""
    from dnntrain.parallel.wrap import settle, share_buffers

    share_buffers(model, mesh)
    settle(run)


def settled(run: Sequence[nn.Module]) -> None:
    """After other weights were in place: the next forward pass gathers the live ones."""
    from dnntrain.parallel.wrap import settle

    settle(run)
