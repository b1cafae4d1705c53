"""This rank's place in the layout, its part of the model, and the executor that computes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dnntrain.distributed.loss_divisor import make_loss_divisor
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.freezing import freeze_model
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.language_module import set_deferred_logits
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import SingleProcess
from dnntrain.training.data import (
    load_sample_images,
    make_empty_batch,
)
from dnntrain.training.distribute_model import (
    distribute_model,
    make_mesh,
    make_no_sync_context,
    make_pipeline_executor,
)
from dnntrain.training.loss import build_objective
from dnntrain.training.setup import RunSetup, apply_model_transforms
from dnntrain.training.trainer_parts import (
    ExecutorParts,
    ModelParts,
    RankPlace,
)
from dnntrain.utils.rng import derive_seed

if TYPE_CHECKING:
    pass


def place_rank(setup: RunSetup) -> RankPlace:
    """Make the device mesh, connect the methods to it, and seed torch's generators."""
    layout, mesh, collectives = make_mesh(setup.config.parallel, setup.plan.degrees, setup.world, setup.device)
    if setup.hooks.federation is not None:
        # A client trains on one rank alone.
        layout, collectives = None, SingleProcess()
    setup.collectives.connect(collectives)
    coords = setup.coords
    # Draws that have no key, such as dropout inside a model, come from torch's generators, with one
    # stream for each shard of the batch.
    torch.manual_seed(derive_seed(setup.config.seed, "torch", coords.data_world.rank))
    return RankPlace(layout, coords, mesh, collectives)


def build_model(setup: RunSetup, place: RankPlace) -> ModelParts:
    """Build the filled model, its layout over the ranks, the compiled form, and the optimizers, in this order."""
    model = build_filled_model(setup)
    add_adapters(model, setup.hooks.feature_taps)
    optim = setup.config.optim.adapt_lr(setup.plan.batch_size)
    parameter_options = optim.get_parameter_options(model)
    parallel_model = distribute_model(
        model,
        setup.hooks.feature_taps,
        setup.config.train.activation_checkpointing,
        place.layout,
        setup.plan,
        place.coords,
        place.mesh,
    )
    model = parallel_model.model
    if setup.plan.compile:
        parallel_model.run_modules[0].compile()
    optimizers = optim.build(model, parameter_options)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return ModelParts(model, parallel_model, optimizers, trainable)


def build_filled_model(setup: RunSetup) -> nn.Module:
    """Build the model with its initial weights, on the device."""
    config, hooks = setup.config, setup.hooks
    model = apply_model_transforms(config.model.build(ModelShape.from_spec(setup.data.spec)), hooks)
    initialize_weights(model, config.seed)
    # Terms of methods read the logits themselves.
    set_deferred_logits(model, setup.plan.degrees.pp == 1 and not (hooks.loss_terms or hooks.feature_taps))
    if hooks.weight_inits:
        images = load_sample_images(config, setup.data)
        for set_weights in hooks.weight_inits:
            set_weights(model, images)
    if config.init_from is not None:
        from dnntrain.nn.weight_names import NamePrefix
        from dnntrain.nn.weights import load_weights

        prefix = None if config.init_prefix is None else NamePrefix.parse(config.init_prefix)
        load_weights(model, config.init_from, config.init_replace_head, prefix)
    freeze_model(model, setup.frozen_patterns, config.optim.list_fixed_parameters(model))
    if setup.plan.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(setup.device)


def build_executor(setup: RunSetup, place: RankPlace, model: ModelParts) -> ExecutorParts:
    """Build the objective and its executor on this layout.

    It is a pipeline of stages, or the same program on every rank.
    """
    hooks, plan = setup.hooks, setup.plan
    scaler = torch.amp.GradScaler(setup.device_type) if plan.precision.uses_loss_scale else None
    task, spec = setup.config.task, setup.data.spec
    if task.measures_targets:
        task = task.fit(spec, setup.data.dataset.train.labels[setup.data.train])
    units = task.get_units(spec)
    objective = build_objective(task, hooks.label_smoothing, hooks.loss_terms, hooks.main_loss_weight, units)
    divisor = make_loss_divisor(task, spec, setup.device, place.collectives.data_ranks, setup.collectives)
    empty_batch = make_empty_batch(setup.data.dataset, setup.device, hooks)
    if plan.degrees.pp > 1:
        assert place.mesh is not None
        pipeline_executor = make_pipeline_executor(setup, model.parallel, objective, place.mesh, divisor)
        return ExecutorParts(pipeline_executor, pipeline_executor.compute_outputs, empty_batch, scaler)
    run_module = model.parallel.run_modules[0]
    executor = SpmdExecutor(
        run_module,
        objective,
        device=setup.device,
        autocast=setup.autocast,
        scaler=scaler,
        divisor=divisor,
        empty_batch=empty_batch,
        replayable=hooks.optimizer_step is not None,
        should_count=place.coords.should_count,
        no_sync=make_no_sync_context(run_module, place.layout),
    )
    # DDP's own forward pass would wait for ranks that have fewer batches; with FSDP all ranks must
    # call it equally often.
    eval_module = run_module if plan.has_collective_forward else model.model
    eval_executor = SpmdExecutor(eval_module, objective, device=setup.device, autocast=setup.autocast)
    return ExecutorParts(executor, eval_executor.compute_outputs, empty_batch, scaler)
