"""Build a trainer from a plan: five builders in order, each returns the values of the next ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnntrain.checkpoint.checkpoint import Digests
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState, RandomState, ScalerState
from dnntrain.distributed.collectives import gather_bytes, gather_tensors, reduce_any_flags, reduce_sum
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelizedModel, RankCoords
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.input.pipeline import InputPipeline
from dnntrain.input.source import Source
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.freezing import freeze_model
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import Batch, Collectives, Hooks, Stateful, StepExecutor, TrainerHandles
from dnntrain.training.cadence import Cadence, Event, make_event
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.components import bind_hooks
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
from dnntrain.training.evaluation import ComputeOutputs, evaluate
from dnntrain.training.evaluator import Evaluator, swap_in_eval_weights
from dnntrain.training.loop import Loop
from dnntrain.training.loss import build_objective
from dnntrain.training.metrics_writer import Listener, Metrics, Timer
from dnntrain.training.optimizer_step import build_apply, run_plain_step
from dnntrain.training.progress import Progress
from dnntrain.training.reshape import make_reshape_event
from dnntrain.training.restore import split_states
from dnntrain.training.scheduled_values import bind_scheduled_values, get_learning_rate, make_scheduled_reader
from dnntrain.training.setup import RunSetup, apply_model_transforms
from dnntrain.training.step_guards import GuardRunner, rollback_targets
from dnntrain.training.stop_signals import SignalWatch, StoppableBatches
from dnntrain.utils.rng import Index, derive_seed
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.powersgd import PowerSgd

#: Seconds between two refreshes of the display.
_TICK_S = 0.25

#: Makes the batches of a split of a data set, unaugmented, for the ranks of a world.
MakeBatches = Callable[[Source, Index, World], Any]


@dataclass(frozen=True)
class Trainer:
    """A run that is ready to be trained or resumed."""

    loop: Loop
    model: nn.Module
    outputs: ComputeOutputs
    hooks: Hooks
    states: Mapping[str, Stateful]
    metrics: Metrics
    evaluator: Evaluator
    checkpointer: Checkpointer
    signals: SignalWatch
    pipeline: InputPipeline
    timer: Timer
    make_batches: MakeBatches
    guard_runner: GuardRunner | None = None

    def start_session(self) -> None:
        """Begin to count the time of training."""
        self.loop.progress.start()
        self.metrics.start_interval()


@dataclass(frozen=True)
class TrainerOutputs:
    """The files that a trainer writes, if any, and the functions that it calls.

    metrics, checkpoints  the metrics file and the folder; only the main rank of a run has them
    listeners             receive each row of metrics
    warn                  receives warnings
    tick                  is called a few times a second with the number of steps done
    """

    metrics: Path | None = None
    checkpoints: Path | None = None
    listeners: Sequence[Listener] = ()
    warn: Callable[[str], None] = lambda text: None
    tick: Callable[[int], None] | None = None


@dataclass(frozen=True)
class RankPlace:
    """The layout, this rank's place in it, its device mesh and collectives.

    One process without a layout has neither layout nor mesh.
    """

    layout: ParallelConfig | None
    coords: RankCoords
    mesh: Mesh | None
    collectives: Collectives


@dataclass(frozen=True)
class ModelParts:
    """The model laid out over the ranks, and the optimizers over this rank's parameters."""

    model: nn.Module
    parallel: ParallelizedModel
    optimizers: Sequence[torch.optim.Optimizer]
    trainable: Sequence[nn.Parameter]


@dataclass(frozen=True)
class ExecutorParts:
    """The executor, the batch without examples that fills up steps, and the loss scaler."""

    executor: StepExecutor
    compute_outputs: ComputeOutputs
    empty_batch: Batch
    scaler: torch.amp.GradScaler | None


@dataclass(frozen=True)
class CheckpointerParts:
    """The checkpointer, its states in the order of restoring, and the state of the layout itself."""

    checkpointer: Checkpointer
    states: dict[str, Stateful]
    parallel_states: Mapping[str, PowerSgd]


@dataclass(frozen=True)
class EvaluatorParts:
    """The evaluator of the validation split, its metrics, and the batches of any split."""

    evaluator: Evaluator
    metrics: Metrics
    make_batches: MakeBatches


@dataclass(frozen=True)
class LoopParts:
    """The loop, the guards around its steps, and the signals that end it."""

    loop: Loop
    guard_runner: GuardRunner | None
    signals: SignalWatch


def build_trainer(setup: RunSetup, digests: Digests, outputs: TrainerOutputs) -> Trainer:
    """Build everything, and list the states in the order of restoring."""
    place = place_rank(setup)
    progress = Progress(setup.config.train.duration, setup.plan.timetable, setup.pause_step)
    timer = Timer(progress)
    model = build_model(setup, place)
    executor = build_executor(setup, place, model)
    pipeline = build_training_pipeline(
        setup.config, setup.plan, setup.data, setup.hooks, place.coords.data_world, setup.device
    )
    saving = build_checkpointer(setup, model, digests, timer, outputs)
    evaluation = build_evaluator(setup, place, model, executor, saving, progress, timer, outputs)
    with ExitStack() as on_error:
        on_error.callback(evaluation.metrics.close)
        training_batches = partial(iterate_training_batches, pipeline, empty=executor.empty_batch)
        bind_hooks(setup.hooks, TrainerHandles(model.model, model.optimizers, training_batches, place.collectives))
        saving.states.update(list_states(setup, model, executor, saving, evaluation, progress))
        loop = build_loop(setup, place, model, executor, pipeline, saving, evaluation, progress, outputs)
        trainer = Trainer(
            loop.loop,
            model.model,
            executor.compute_outputs,
            setup.hooks,
            saving.states,
            evaluation.metrics,
            evaluation.evaluator,
            saving.checkpointer,
            loop.signals,
            pipeline,
            timer,
            evaluation.make_batches,
            loop.guard_runner,
        )
        on_error.pop_all()
    return trainer


def place_rank(setup: RunSetup) -> RankPlace:
    """Make the device mesh, connect the methods to it, and seed torch's generators."""
    layout, mesh, collectives = make_mesh(setup.config.parallel, setup.plan.degrees, setup.world, setup.device)
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
    task = setup.config.task.fit(setup.data.spec, setup.data.dataset.train.labels[setup.data.train])
    objective = build_objective(task, hooks.label_smoothing, hooks.loss_terms, hooks.main_loss_weight)
    empty_batch = make_empty_batch(setup.data.dataset, setup.device, hooks)
    if plan.degrees.pp > 1:
        assert place.mesh is not None
        pipeline_executor = make_pipeline_executor(setup, model.parallel, objective, place.mesh)
        return ExecutorParts(pipeline_executor, pipeline_executor.compute_outputs, empty_batch, scaler)
    run_module = model.parallel.run_modules[0]
    executor = SpmdExecutor(
        run_module,
        objective,
        device=setup.device_type,
        autocast=setup.autocast,
        scaler=scaler,
        ranks=plan.degrees.data_ranks,
        empty_batch=empty_batch,
        replayable=hooks.optimizer_step is not None,
        should_count=place.coords.should_count,
        loss_weight=partial(setup.config.task.loss_weight, spec=setup.data.spec),
        no_sync=make_no_sync_context(run_module, place.layout),
    )
    # DDP's own forward pass would wait for ranks that have fewer batches; with FSDP all ranks must
    # call it equally often.
    eval_module = run_module if plan.has_collective_forward else model.model
    eval_executor = SpmdExecutor(eval_module, objective, device=setup.device_type, autocast=setup.autocast)
    return ExecutorParts(executor, eval_executor.compute_outputs, empty_batch, scaler)


def build_checkpointer(
    setup: RunSetup, model: ModelParts, digests: Digests, timer: Timer, outputs: TrainerOutputs
) -> CheckpointerParts:
    """Build the checkpointer. Its states are listed after all of them exist."""
    options, world = setup.config.checkpoint, setup.world
    states: dict[str, Stateful] = {}
    gather = partial(gather_bytes, device=setup.device)
    checkpointer = Checkpointer(
        outputs.checkpoints,
        states,
        digests,
        keep=options.keep_last,
        timer=timer,
        warn=outputs.warn if options.on_error == "warn" else None,
        ranks=RankExchange(world.rank, gather) if setup.plan.ranks > 1 else RankExchange(),
        get_rollback_targets=partial(rollback_targets, setup.hooks.step_guards),
    )
    parallel_states = build_parallel_state(setup.config.parallel, model.parallel.run_modules, world, outputs.warn)
    return CheckpointerParts(checkpointer, states, parallel_states)


def build_evaluator(
    setup: RunSetup,
    place: RankPlace,
    model: ModelParts,
    executor: ExecutorParts,
    saving: CheckpointerParts,
    progress: Progress,
    timer: Timer,
    outputs: TrainerOutputs,
) -> EvaluatorParts:
    """Build the metrics, and the evaluation of the validation split with the evaluation weights."""
    config, plan, data, hooks = setup.config, setup.plan, setup.data, setup.hooks
    mesh, data_world = place.mesh, place.coords.data_world
    make_batches = partial(make_unaugmented_batches, config, data.dataset, setup.device, plan.channels_last)
    metrics = Metrics(
        outputs.metrics,
        progress,
        learning_rate=lambda: get_learning_rate(model.optimizers),
        read_scheduled=make_scheduled_reader(hooks.scheduled_values, model.optimizers, model.model),
        reduce=reduce_sum,
        listeners=outputs.listeners,
        decisions=hooks.metric_callbacks,
    )
    # If ranks compute together, each calls the model as often as the rank with the most batches.
    is_collective = plan.has_collective_forward
    rounds = max_batches_per_rank(len(data.val), data_world.size, config.eval.batch_size) if is_collective else 0

    def validate() -> Mapping[str, float | int]:
        with swap_in_eval_weights(hooks.eval_weights, model.model):
            if mesh is not None:
                sync_for_eval(model.model, model.parallel.run_modules, mesh)
            val_metrics = evaluate(
                config.task,
                data.spec,
                model.model,
                executor.compute_outputs,
                make_batches(data.dataset.train, data.val, data_world),
                reduce_sum,
                setup.device,
                should_count=place.coords.should_count,
                rounds=rounds,
                empty=executor.empty_batch,
                positions=len(data.val) if plan.ranks > 1 else 0,
            )
        if mesh is not None:
            reshard(model.parallel.run_modules)
        return val_metrics

    evaluator = Evaluator(validate, metrics, saving.checkpointer, timer, plan.metrics[0], hooks.best_from_step)
    return EvaluatorParts(evaluator, metrics, make_batches)


def list_states(
    setup: RunSetup,
    model: ModelParts,
    executor: ExecutorParts,
    saving: CheckpointerParts,
    evaluation: EvaluatorParts,
    progress: Progress,
) -> dict[str, Stateful]:
    """List the states that a resume restores, in this order."""
    is_partial = setup.plan.degrees.pp > 1
    scaler_state: dict[str, Stateful] = {} if executor.scaler is None else {"scaler": ScalerState(executor.scaler)}
    method_states, replayed_states = split_states(setup.hooks.state)
    return {
        "model": ModelState(model.model, is_partial=is_partial),
        "optimizer": OptimizerState(model.optimizers, is_partial=is_partial),
        **scaler_state,
        **method_states,
        **saving.parallel_states,
        "evaluator": evaluation.evaluator,
        "progress": progress,
        "replayed": replayed_states,
        "metrics": evaluation.metrics,
        "random": RandomState(setup.device, setup.world.rank, partial(gather_tensors, device=setup.device)),
    }


def build_loop(
    setup: RunSetup,
    place: RankPlace,
    model: ModelParts,
    executor: ExecutorParts,
    pipeline: InputPipeline,
    saving: CheckpointerParts,
    evaluation: EvaluatorParts,
    progress: Progress,
    outputs: TrainerOutputs,
) -> LoopParts:
    """Build the loop over bound hooks: its events, its guards, and the update between them."""
    hooks, plan, metrics = setup.hooks, setup.plan, evaluation.metrics
    signals = SignalWatch(progress, partial(reduce_any_flags, device=setup.device) if plan.ranks > 1 else None)
    guard_runner = _build_guard_runner(setup, place, model, executor, saving, metrics, progress)
    batches = pipeline if plan.ranks > 1 else StoppableBatches(pipeline, progress)
    update = hooks.optimizer_step or run_plain_step
    loop = Loop(
        progress=progress,
        batches=guard_runner.time_batches(batches) if guard_runner else batches,
        setters=bind_scheduled_values(
            hooks.scheduled_values, model.optimizers, model.model, must_find=plan.degrees.pp == 1
        ),
        executor=executor.executor,
        update=guard_runner.wrap_update(update) if guard_runner else update,
        apply=build_apply(
            model.optimizers,
            model.trainable,
            hooks.gradient_transforms,
            metrics.observe,
            executor.scaler,
            guard_runner.should_apply if guard_runner else None,
        ),
        after_step=hooks.after_step_hooks,
        metrics=metrics,
        cadence=Cadence(_list_events(setup, signals, saving, evaluation, progress, outputs), progress.total_steps),
    )
    return LoopParts(loop, guard_runner, signals)


def _list_events(
    setup: RunSetup,
    signals: SignalWatch,
    saving: CheckpointerParts,
    evaluation: EvaluatorParts,
    progress: Progress,
    outputs: TrainerOutputs,
) -> list[Event]:
    """List the events between steps, in this order."""
    config = setup.config
    has_ranks, has_validation = setup.plan.ranks > 1, bool(len(setup.data.val))
    return [
        *([Event(signals.agree_on_stop, next_step=signals.get_next_step)] if has_ranks else []),
        make_event(evaluation.metrics.write_train_row, config.log.every, progress),
        *([make_event(evaluation.evaluator, config.eval.every, progress)] if has_validation else []),
        make_event(saving.checkpointer, config.checkpoint.every, progress),
        *make_reshape_event(setup.hooks.reshaping, saving.checkpointer),
        *([Event(outputs.tick, every_s=_TICK_S)] if outputs.tick is not None else []),
    ]


def _build_guard_runner(
    setup: RunSetup,
    place: RankPlace,
    model: ModelParts,
    executor: ExecutorParts,
    saving: CheckpointerParts,
    metrics: Metrics,
    progress: Progress,
) -> GuardRunner | None:
    guards = setup.hooks.step_guards
    if not guards:
        return None
    return GuardRunner(
        guards,
        setup.hooks.state["recovery"],  # type: ignore[arg-type]
        step=lambda: progress.step,
        write=partial(metrics.write_row, "event"),
        reduce=reduce_sum,
        collectives=place.collectives,
        optimizers=model.optimizers,
        buffers=model.model.buffers(),
        device=setup.device,
        has_scaler=executor.scaler is not None,
        step_states=saving.parallel_states.values(),
    )
