"""Plan → Trainer: one written order, one function a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from dnntrain.checkpoint.checkpoint import Digests
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState, RandomState, ScalerState
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.collectives import gather_bytes, gather_tensors, reduce_any_flags, reduce_sum
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.input.pipeline import InputPipeline
from dnntrain.input.prepared import PreparedData
from dnntrain.input.source import Source
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Batch, Hooks, Stateful, StepExecutor, TrainerHandles
from dnntrain.run.directory import RunDirectory
from dnntrain.training.cadence import Cadence, Event, make_event
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.components import bind_hooks, build_hooks, make_build_context
from dnntrain.training.data import (
    build_training_pipeline,
    iterate_training_batches,
    load_sample_images,
    make_empty_batch,
    make_unaugmented_batches,
    max_batches_per_rank,
)
from dnntrain.training.distribute_model import (
    build_parallel_state,
    distribute_model,
    make_mesh,
    make_no_sync_context,
    make_pipeline_executor,
    reshard,
    sync_for_eval,
)
from dnntrain.training.evaluation import evaluate
from dnntrain.training.evaluator import Evaluator, swap_in_eval_weights
from dnntrain.training.loop import Loop
from dnntrain.training.loss import build_objective
from dnntrain.training.metrics import Listener, Metrics, Timer
from dnntrain.training.optimizer_step import build_apply, run_plain_step
from dnntrain.training.progress import Progress
from dnntrain.training.scheduled_values import bind_scheduled_values, get_learning_rate, make_scheduled_reader
from dnntrain.training.signals import SignalWatch
from dnntrain.training.step_guards import GuardRunner, rollback_targets
from dnntrain.utils.rng import Index, derive_seed
from dnntrain.utils.world import World

#: Seconds between two looks at the display.
_TICK_S = 0.25


@dataclass(frozen=True)
class Trainer:
    """A run that is ready to be trained, or gone on with."""

    loop: Loop
    model: nn.Module
    outputs: Callable[[Batch], torch.Tensor]
    hooks: Hooks
    states: Mapping[str, Stateful]
    metrics: Metrics
    evaluator: Evaluator
    checkpointer: Checkpointer
    signals: SignalWatch
    pipeline: InputPipeline
    timer: Timer
    make_batches: Callable[[Source, Index, World], Any]
    guard_runner: GuardRunner | None = None


def build_trainer(
    config: RunConfig,
    plan: Plan,
    data: PreparedData,
    directory: RunDirectory | None,
    world: World,
    device: str,
    digests: Digests,
    listeners: Sequence[Listener],
    warn: Callable[[str], None],
    tick: Callable[[int], None] | None = None,
) -> Trainer:
    """Assembles everything in the order below. Only the main rank has a `run`. `tick` is called a few times a second."""
    layout, mesh, collectives = make_mesh(config, plan, world, device)
    coords = plan.degrees.locate_rank(world)
    # What cannot be keyed, such as dropout inside a model, draws from torch's generators, one stream for each share of the batch.
    torch.manual_seed(derive_seed(config.seed, "torch", coords.data_world.rank))
    progress = Progress(config.train.duration, plan.timetable)
    # 1. what each chosen method contributes
    context = make_build_context(config, plan, data, device, world, collectives)
    hooks = build_hooks(config, context)
    # 2. model: build, norm and structural transforms, quantisation; weights; memory format; device
    model = make_model(config, plan, data, hooks, device)
    # 3. layout, then compilation
    add_adapters(model, hooks.feature_taps)
    optim = config.optim.adapt_lr(plan.batch_size)
    settings = optim.get_parameter_options(model)
    parallel_model = distribute_model(config, plan, model, hooks, layout, coords, mesh)
    model = parallel_model.model
    if plan.compile:
        parallel_model.run_modules[0].compile()
    # 4. optimizers over the model's own parameters
    optimizers = optim.build(model, settings)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # 5. objective, executor, update
    scaler = torch.amp.GradScaler(device.split(":")[0]) if plan.precision.uses_loss_scale else None
    autocast = getattr(torch, plan.precision.autocast_dtype) if plan.precision.autocast_dtype else None
    device_type = device.split(":")[0]
    objective = build_objective(hooks.label_smoothing, hooks.loss_terms, hooks.main_loss_weight)
    empty_batch = make_empty_batch(data.dataset, device, hooks)
    executor: StepExecutor
    if plan.degrees.pp > 1:
        assert mesh is not None
        executor = make_pipeline_executor(
            config, plan, parallel_model, objective, mesh, coords, data.dataset, device, autocast, hooks
        )
        outputs = executor.compute_outputs
    else:
        executor = SpmdExecutor(
            parallel_model.run_modules[0],
            objective,
            device=device_type,
            autocast=autocast,
            scaler=scaler,
            ranks=plan.degrees.data_ranks,
            empty_batch=empty_batch,
            replayable=hooks.optimizer_step is not None,
            should_count=coords.should_count,
            no_sync=make_no_sync_context(parallel_model.run_modules[0], layout),
        )
        # DDP's own forward pass would wait for ranks that have fewer batches; FSDP's must be called by all, as often.
        eval_module = parallel_model.run_modules[0] if plan.has_collective_forward else model
        outputs = SpmdExecutor(eval_module, objective, device=device_type, autocast=autocast).compute_outputs
    # 6. batches
    pipeline = build_training_pipeline(config, plan, data, hooks, coords.data_world, device)
    make_batches = partial(make_unaugmented_batches, config, data.dataset, device, plan.channels_last)
    # 7. metrics, evaluation, saving
    timer = Timer(progress)
    metrics = Metrics(
        directory.path / "metrics.jsonl" if directory else None,
        progress,
        learning_rate=lambda: get_learning_rate(optimizers),
        read_scheduled=make_scheduled_reader(hooks.scheduled_values, optimizers, model),
        reduce=reduce_sum,
        listeners=listeners,
        decisions=hooks.metric_callbacks,
    )
    states: dict[str, Stateful] = {}
    checkpointer = Checkpointer(
        directory.checkpoints if directory else None,
        states,
        digests,
        keep=config.checkpoint.keep,
        timer=timer,
        warn=warn if config.checkpoint.on_error == "warn" else None,
        ranks=RankExchange(world.rank, partial(gather_bytes, device=device)) if plan.ranks > 1 else RankExchange(),
        get_rollback_targets=partial(rollback_targets, hooks.step_guards),
    )
    # Where ranks compute together, each calls the model as often as the one with the most batches.
    rounds = (
        max_batches_per_rank(len(data.val), coords.data_world.size, config.eval.batch_size)
        if plan.has_collective_forward
        else 0
    )

    def validate() -> Mapping[str, float | int]:
        with swap_in_eval_weights(hooks.eval_weights, model):
            if mesh is not None:
                sync_for_eval(model, parallel_model.run_modules, mesh)
            batches = make_batches(data.dataset.train, data.val, coords.data_world)
            val_metrics = evaluate(
                model,
                outputs,
                batches,
                reduce_sum,
                device,
                should_count=coords.should_count,
                rounds=rounds,
                empty=empty_batch,
            )
        if mesh is not None:
            reshard(parallel_model.run_modules)
        return val_metrics

    evaluator = Evaluator(validate, metrics, checkpointer, timer, config.eval.metric)
    signals = SignalWatch(progress, partial(reduce_any_flags, device=device) if plan.ranks > 1 else None)
    # 8. bind what acts on the model, and list the state, in the order of restoring
    bind_hooks(
        hooks,
        TrainerHandles(
            model, optimizers, partial(iterate_training_batches, pipeline, empty=empty_batch), context.collectives
        ),
    )
    parallel_states = build_parallel_state(config, parallel_model.run_modules, world, warn)
    scaler_state: dict[str, Stateful] = {} if scaler is None else {"scaler": ScalerState(scaler)}
    states.update(
        {
            "model": ModelState(model, is_partial=plan.degrees.pp > 1),
            "optimizer": OptimizerState(optimizers, is_partial=plan.degrees.pp > 1),
            **scaler_state,
            **hooks.state,
            **parallel_states,
            "evaluator": evaluator,
            "progress": progress,
            "metrics": metrics,
            "random": RandomState(device, world.rank, partial(gather_tensors, device=device)),
        }
    )
    # 9. the loop
    events = [
        *([Event(signals.agree_on_stop, next_step=signals.get_next_step)] if plan.ranks > 1 else []),
        make_event(metrics.write_train_row, config.log.every, progress),
        *([make_event(evaluator, config.eval.every, progress)] if len(data.val) else []),
        make_event(checkpointer, config.checkpoint.every, progress),
        *([Event(tick, every_s=_TICK_S)] if tick is not None else []),
    ]
    guard_runner = (
        GuardRunner(
            hooks.step_guards,
            hooks.state["recovery"],  # type: ignore[arg-type]
            step=lambda: progress.step,
            write=partial(metrics.write_row, "event"),
            reduce=reduce_sum,
            collectives=context.collectives,
            optimizers=optimizers,
            buffers=model.buffers(),
            device=device,
            has_scaler=scaler is not None,
            step_states=parallel_states.values(),
        )
        if hooks.step_guards
        else None
    )
    loop = Loop(
        progress=progress,
        batches=guard_runner.time_batches(pipeline) if guard_runner else pipeline,
        setters=bind_scheduled_values(hooks.scheduled_values, optimizers, model, must_find=plan.degrees.pp == 1),
        executor=executor,
        update=guard_runner.wrap_update(hooks.optimizer_step or run_plain_step)
        if guard_runner
        else hooks.optimizer_step or run_plain_step,
        apply=build_apply(
            optimizers,
            trainable,
            hooks.gradient_transforms,
            metrics.observe,
            scaler,
            guard_runner.should_apply if guard_runner else None,
        ),
        after_step=hooks.after_step_hooks,
        metrics=metrics,
        cadence=Cadence(events, progress.total_steps),
    )
    return Trainer(
        loop,
        model,
        outputs,
        hooks,
        states,
        metrics,
        evaluator,
        checkpointer,
        signals,
        pipeline,
        timer,
        make_batches,
        guard_runner,
    )


def make_model(config: RunConfig, plan: Plan, data: PreparedData, hooks: Hooks, device: str) -> nn.Module:
    """The model with its first weights, on the device."""
    dataset = data.dataset
    model: nn.Module = config.model.build(ModelShape(len(dataset.class_names), *dataset.input_shape))
    for transform in hooks.model_transforms:
        model = transform.apply(model)
    initialize_weights(model, config.seed)
    if hooks.weight_inits:
        images = load_sample_images(config, data)
        for set_weights in hooks.weight_inits:
            set_weights(model, images)
    if config.init_from is not None:
        from dnntrain.nn.weights import load_weights

        load_weights(model, config.init_from, replace_head=config.init_replace_head)
    if plan.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)
