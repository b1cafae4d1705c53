"""Apply the planned layout: the device mesh, the model over its ranks, and its executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from torch import nn

from dnntrain.distributed.collectives import join_process_group
from dnntrain.distributed.loss_divisor import LossDivisor
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, ParallelizedModel, RankCoords
from dnntrain.nn.feature_capture import FeatureCapture
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Collectives, FeatureTap, ParallelChoice, SingleProcess, StepExecutor
from dnntrain.training.loss import Objective
from dnntrain.training.setup import RunSetup
from dnntrain.utils.hardware import get_device_type
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.powersgd import PowerSgd


def make_mesh(
    layout: ParallelChoice, dims: ParallelDims, world: World, device: str
) -> tuple[ParallelConfig | None, Mesh | None, Collectives]:
    """Return (the layout, its device mesh, its collectives).

    For one process without a layout it is (None, None, the single-process ones).
    """
    if not isinstance(layout, ParallelConfig):
        return None, None, SingleProcess()
    from dnntrain.distributed.mesh import Mesh, MeshCollectives

    join_process_group(world, device, force_group=True)
    mesh = Mesh(dims, get_device_type(device))
    return layout, mesh, MeshCollectives(mesh)


def distribute_model(
    model: nn.Module,
    taps: Sequence[FeatureTap],
    activation_checkpointing: Literal["none", "selective", "full"],
    layout: ParallelConfig | None,
    plan: Plan,
    coords: RankCoords,
    mesh: Mesh | None,
) -> ParallelizedModel:
    """Lay the model out over the ranks, in a module that captures the features of `taps`."""

    def wrap_feature_capture(model: nn.Module) -> nn.Module:
        return FeatureCapture(model, taps) if taps else model

    if layout is None and activation_checkpointing == "none":
        return ParallelizedModel(model, [wrap_feature_capture(model)])
    from dnntrain.distributed.parallelize import parallelize_model

    return parallelize_model(
        model,
        layout,
        plan.degrees,
        coords,
        mesh,
        bounds=plan.stage_bounds,
        activation_checkpointing=activation_checkpointing,
        wrap_model=wrap_feature_capture,
    )


def make_pipeline_executor(
    setup: RunSetup, parallel_model: ParallelizedModel, objective: Objective, mesh: Mesh, divisor: LossDivisor
) -> StepExecutor:
    """Build the executor of the pipeline's stages on this rank."""
    from dnntrain.distributed.pipeline_parallel import PipelineExecutor, autocast_forward

    config, plan, spec = setup.config, setup.plan, setup.data.spec
    if setup.autocast is not None:
        for stage in parallel_model.run_modules:
            autocast_forward(stage, setup.device_type, setup.autocast)
    return PipelineExecutor(
        parallel_model.run_modules,
        parallel_model.stage_indices,
        objective,
        mesh,
        schedule=config.parallel.schedule,
        micro_batch_size=plan.micro_batch_size,
        micro_batches=plan.accumulation,
        evaluation_size=config.eval.batch_size,
        input_shape=spec.inputs.shape,
        output_shape=spec.output.shape,
        divisor=divisor,
        input_dtype=spec.inputs.make_zeros(0).dtype,
        device=setup.device,
        should_count=setup.coords.should_count,
        replayable=setup.hooks.optimizer_step is not None,
    )


def make_no_sync_context(
    module: nn.Module, layout: ParallelConfig | None
) -> Callable[[], AbstractContextManager[None]]:
    """Return the context of backward passes that only accumulate this rank's gradients."""
    if layout is None:
        return nullcontext
    from dnntrain.distributed.data_parallel import get_no_sync

    return get_no_sync(module)


def build_parallel_state(
    layout: ParallelChoice, run: Sequence[nn.Module], world: World, warn: Callable[[str], None]
) -> Mapping[str, PowerSgd]:
    """Return the state that the layout itself carries from step to step."""
    if not layout.gradient_copies:
        return {}
    from dnntrain.distributed.powersgd import get_powersgd_state

    return get_powersgd_state(run, world, warn)


def sync_for_eval(model: nn.Module, run: Sequence[nn.Module], mesh: Mesh) -> None:
    """Give all ranks the same running statistics, and gather the current weights, to evaluate."""
    from dnntrain.distributed.data_parallel import broadcast_buffers, reshard_modules

    broadcast_buffers(model, mesh)
    reshard_modules(run)


def reshard(run: Sequence[nn.Module]) -> None:
    """Gather the training weights in the next forward pass, after other weights were in place."""
    from dnntrain.distributed.data_parallel import reshard_modules

    reshard_modules(run)
