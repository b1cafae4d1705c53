"""Plan → Trainer: one written order, one function a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from dnntrain.checkpoint.checkpoint import Digests
from dnntrain.checkpoint.gather import Ranks
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState, RandomState, ScalerState
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.collectives import any_ranks, gather, gather_bytes, reduce_sum
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.input.pipeline import Pipeline
from dnntrain.input.prepared import Prepared
from dnntrain.input.source import Source
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.init import initialise
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Batch, Built, Executor, Parts, Stateful
from dnntrain.run.directory import RunDirectory
from dnntrain.training.cadence import Cadence, Event, event
from dnntrain.training.checkpointer import Saver
from dnntrain.training.components import bind, collect, make_context
from dnntrain.training.data import (
    most_batches,
    no_examples,
    sample_images,
    training_batches,
    training_pipeline,
    unaugmented_batches,
)
from dnntrain.training.distribute_model import (
    contexts_of,
    make_mesh,
    make_pipeline,
    place_on_ranks,
    ready_to_evaluate,
    settled,
    states_of,
)
from dnntrain.training.evaluation import evaluate
from dnntrain.training.evaluator import Evaluator, applied
from dnntrain.training.loop import Loop
from dnntrain.training.loss import build_objective
from dnntrain.training.metrics import Listener, Metrics, Timer
from dnntrain.training.optimizer_step import build_apply, plain
from dnntrain.training.progress import Progress
from dnntrain.training.scheduled_values import bind_controls, learning_rate, scheduled_values
from dnntrain.training.signals import SignalWatch
from dnntrain.training.step_guards import Guarding, may_go_back_to
from dnntrain.utils.rng import Index, derive
from dnntrain.utils.world import World

#: Seconds between two looks at the display.
_TICK_S = 0.25


@dataclass(frozen=True)
class Trainer:
    """A run that is ready to be trained, or gone on with."""

    loop: Loop
    model: nn.Module
    outputs: Callable[[Batch], torch.Tensor]
    parts: Parts
    states: Mapping[str, Stateful]
    metrics: Metrics
    evaluator: Evaluator
    saver: Saver
    signals: SignalWatch
    pipeline: Pipeline
    timer: Timer
    batches_of: Callable[[Source, Index, World], Any]
    guarding: Guarding | None = None


def build(
    config: RunConfig,
    plan: Plan,
    data: Prepared,
    run: RunDirectory | None,
    world: World,
    device: str,
    digests: Digests,
    listeners: Sequence[Listener],
    warn: Callable[[str], None],
    tick: Callable[[int], None] | None = None,
) -> Trainer:
    """Assembles everything in the order below. Only the main rank has a `run`. `tick` is called a few times a second."""
    layout, mesh, collect_ranks = make_mesh(config, plan, world, device)
    place = plan.degrees.place(world)
    # What cannot be keyed, such as dropout inside a model, draws from torch's generators, one stream for each share of the batch.
    torch.manual_seed(derive(config.seed, "torch", place.data.rank))
    progress = Progress(config.train.duration, plan.timetable)
    # 1. what each chosen method contributes
    context = make_context(config, plan, data, device, world, collect_ranks)
    parts = collect(config, context)
    # 2. model: build, norm and structural transforms, quantisation; weights; memory format; device
    model = make_model(config, plan, data, parts, device)
    # 3. layout, then compilation
    add_adapters(model, parts.captures)
    optim = config.optim.scaled(plan.batch_size)
    settings = optim.settings(model)
    arranged = place_on_ranks(config, plan, model, parts, layout, place, mesh)
    model = arranged.model
    if plan.compile:
        arranged.run[0].compile()
    # 4. optimizers over the model's own parameters
    optimizers = optim.build(model, settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # 5. objective, executor, update
    scaler = torch.amp.GradScaler(device.split(":")[0]) if plan.precision.scaler else None
    autocast = getattr(torch, plan.precision.autocast) if plan.precision.autocast else None
    device_type = device.split(":")[0]
    objective = build_objective(parts.label_smoothing, parts.loss, parts.task_weight)
    empty = no_examples(data.dataset, device, parts)
    executor: Executor
    if plan.degrees.pp > 1:
        assert mesh is not None
        executor = make_pipeline(config, plan, arranged, objective, mesh, place, data.dataset, device, autocast, parts)
        outputs = executor.outputs
    else:
        executor = SpmdExecutor(
            arranged.run[0],
            objective,
            device=device_type,
            autocast=autocast,
            scaler=scaler,
            ranks=plan.degrees.data_ranks,
            empty=empty,
            replayable=parts.update is not None,
            counts=place.counts,
            unsynchronised=contexts_of(arranged.run[0], layout),
        )
        # DDP's own forward pass would wait for ranks that have fewer batches; FSDP's must be called by all, as often.
        called = arranged.run[0] if plan.in_step else model
        outputs = SpmdExecutor(called, objective, device=device_type, autocast=autocast).outputs
    # 6. batches
    pipeline = training_pipeline(config, plan, data, parts, place.data, device)
    batches_of = partial(unaugmented_batches, config, data.dataset, device, plan.channels_last)
    # 7. metrics, evaluation, saving
    timer = Timer(progress)
    metrics = Metrics(
        run.path / "metrics.jsonl" if run else None,
        progress,
        learning_rate=lambda: learning_rate(optimizers),
        scheduled=scheduled_values(parts.controls, optimizers, model),
        reduce=reduce_sum,
        listeners=listeners,
        decisions=parts.decisions,
    )
    states: dict[str, Stateful] = {}
    saver = Saver(
        run.checkpoints if run else None,
        states,
        digests,
        keep=config.checkpoint.keep,
        timer=timer,
        warn=warn if config.checkpoint.on_error == "warn" else None,
        ranks=Ranks(world.rank, partial(gather_bytes, device=device)) if plan.ranks > 1 else Ranks(),
        until=partial(may_go_back_to, parts.guards),
    )
    # Where ranks compute together, each calls the model as often as the one with the most batches.
    rounds = most_batches(len(data.val), place.data.size, config.eval.batch_size) if plan.in_step else 0

    def validate() -> Mapping[str, float | int]:
        with applied(parts.evaluation, model):
            if mesh is not None:
                ready_to_evaluate(model, arranged.run, mesh)
            batches = batches_of(data.dataset.train, data.val, place.data)
            found = evaluate(
                model, outputs, batches, reduce_sum, device, counts=place.counts, rounds=rounds, empty=empty
            )
        if mesh is not None:
            settled(arranged.run)
        return found

    evaluator = Evaluator(validate, metrics, saver, timer, config.eval.metric)
    signals = SignalWatch(progress, partial(any_ranks, device=device) if plan.ranks > 1 else None)
    # 8. bind what acts on the model, and list the state, in the order of restoring
    bind(parts, Built(model, optimizers, partial(training_batches, pipeline, empty=empty), context.collect))
    layout_states = states_of(config, arranged.run, world, warn)
    scaler_state: dict[str, Stateful] = {} if scaler is None else {"scaler": ScalerState(scaler)}
    states.update(
        {
            "model": ModelState(model, part=plan.degrees.pp > 1),
            "optimizer": OptimizerState(optimizers, part=plan.degrees.pp > 1),
            **scaler_state,
            **parts.state,
            **layout_states,
            "evaluator": evaluator,
            "progress": progress,
            "metrics": metrics,
            "random": RandomState(device, world.rank, partial(gather, device=device)),
        }
    )
    # 9. the loop
    events = [
        *([Event(signals.agree, next_step=signals.next_step)] if plan.ranks > 1 else []),
        event(metrics.train_row, config.log.every, progress),
        *([event(evaluator, config.eval.every, progress)] if len(data.val) else []),
        event(saver, config.checkpoint.every, progress),
        *([Event(tick, every_s=_TICK_S)] if tick is not None else []),
    ]
    guarding = (
        Guarding(
            parts.guards,
            parts.state["recovery"],  # type: ignore[arg-type]
            step=lambda: progress.step,
            write=partial(metrics.write, "event"),
            reduce=reduce_sum,
            collect=context.collect,
            optimizers=optimizers,
            buffers=model.buffers(),
            device=device,
            scaled=scaler is not None,
            carried=layout_states.values(),
        )
        if parts.guards
        else None
    )
    loop = Loop(
        progress=progress,
        batches=guarding.batches(pipeline) if guarding else pipeline,
        controls=bind_controls(parts.controls, optimizers, model, must_find=plan.degrees.pp == 1),
        executor=executor,
        update=guarding.update(parts.update or plain) if guarding else parts.update or plain,
        apply=build_apply(
            optimizers, trained, parts.gradient, metrics.observe, scaler, guarding.passes if guarding else None
        ),
        after_step=parts.after_step,
        metrics=metrics,
        cadence=Cadence(events, progress.total_steps),
    )
    return Trainer(
        loop, model, outputs, parts, states, metrics, evaluator, saver, signals, pipeline, timer, batches_of, guarding
    )


def make_model(config: RunConfig, plan: Plan, data: Prepared, parts: Parts, device: str) -> nn.Module:
    """The model with its first weights, on the device."""
    dataset = data.dataset
    model: nn.Module = config.model.build(ModelShape(len(dataset.class_names), *dataset.input_shape))
    for transform in parts.model:
        model = transform.apply(model)
    initialise(model, config.seed)
    if parts.first_weights:
        images = sample_images(config, data)
        for set_weights in parts.first_weights:
            set_weights(model, images)
    if config.init_from is not None:
        from dnntrain.nn.weights import load_weights

        load_weights(model, config.init_from, replace_head=config.init_replace_head)
    if plan.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)
