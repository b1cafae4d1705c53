"""Build a trainer from a plan: five builders in order, each returns the values of the next ones."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from dnntrain.checkpoint.checkpoint_format import Digests
from dnntrain.checkpoint.gather import RankExchange
from dnntrain.distributed.collectives import gather_bytes, make_background_gather, reduce_sum
from dnntrain.errors import CheckpointError
from dnntrain.input.pipeline import InputPipeline
from dnntrain.protocols import Hooks, Stateful, TrainerHandles
from dnntrain.training.build_loop import build_loop
from dnntrain.training.build_model import build_executor, build_model, place_rank
from dnntrain.training.checkpointer import BackgroundCheckpointer, Checkpointer
from dnntrain.training.components import bind_hooks
from dnntrain.training.data import (
    build_training_pipeline,
    iterate_training_batches,
    make_unaugmented_batches,
    max_batches_per_rank,
    open_shared_cache,
)
from dnntrain.training.distribute_model import (
    build_parallel_state,
    reshard,
    sync_for_eval,
)
from dnntrain.training.evaluation import ComputeOutputs, evaluate
from dnntrain.training.evaluator import Evaluator, swap_in_eval_weights
from dnntrain.training.loop import Loop
from dnntrain.training.metrics_writer import Metrics, Timer
from dnntrain.training.progress import Progress
from dnntrain.training.recovery import rollback_targets
from dnntrain.training.saved_states import list_states
from dnntrain.training.scheduled_values import get_learning_rate, make_scheduled_reader
from dnntrain.training.seq_len import SequenceLength, add_seq_len, make_seq_len
from dnntrain.training.setup import RunSetup
from dnntrain.training.step_guards import GuardRunner
from dnntrain.training.step_trace import WARMUP_STEPS, StepTrace, add_trace
from dnntrain.training.stop_signals import SignalWatch
from dnntrain.training.trainer_parts import (
    CheckpointerParts,
    EvaluatorParts,
    ExecutorParts,
    MakeBatches,
    ModelParts,
    RankPlace,
    TrainerOutputs,
)


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
    trace: StepTrace | None = None

    def close(self) -> None:
        """Close the files of the metrics and of the trace, and end the readers."""
        if self.trace is not None:
            self.trace.close()
        self.metrics.close()
        self.pipeline.close()
        # An error of the run comes first.
        with suppress(CheckpointError):
            self.checkpointer.close()

    def start_session(self) -> None:
        """Begin to count the time of training."""
        self.loop.progress.start()
        self.metrics.start_interval()


def build_trainer(setup: RunSetup, digests: Digests, outputs: TrainerOutputs) -> Trainer:
    """Build everything, and list the states in the order of restoring."""
    place = place_rank(setup)
    progress = Progress(setup.config.train.duration, setup.plan.timetable, setup.pause_step)
    seq_len = make_seq_len(setup, progress)
    timer = Timer(progress)
    model = build_model(setup, place)
    executor = build_executor(setup, place, model)
    open_shared_cache(setup.plan, setup.data.dataset.train, setup.world, setup.device)
    pipeline = build_training_pipeline(
        setup.config, setup.plan, setup.data, setup.hooks, place.coords.data_world, setup.device
    )
    saving = build_checkpointer(setup, model, digests, timer, outputs)
    evaluation = build_evaluator(setup, place, model, executor, saving, progress, timer, outputs, seq_len)
    with ExitStack() as on_error:
        on_error.callback(evaluation.metrics.close)
        training_batches = partial(iterate_training_batches, pipeline, empty=executor.empty_batch)
        handles = TrainerHandles(
            model.model,
            model.optimizers,
            training_batches,
            place.collectives,
            setup.hooks.last_change_step,
            setup.hooks.mask_steps,
        )
        bind_hooks(setup.hooks, handles)
        saving.states.update(list_states(setup, model, executor, saving, evaluation, progress))
        loop = build_loop(setup, place, model, executor, pipeline, saving, evaluation, progress, outputs, seq_len)
        saving.states.update(loop.states)
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
    return trainer if outputs.traces is None else _add_trace(trainer, setup, outputs.traces)


def _add_trace(trainer: Trainer, setup: RunSetup, folder: Path) -> Trainer:
    """Return the trainer with the trace of `train.profile`, if it is set."""
    steps, total_steps = setup.plan.profile_steps, setup.plan.total_steps
    if steps == 0:
        return trainer
    warmup = WARMUP_STEPS if total_steps == 0 else min(WARMUP_STEPS, total_steps - steps)
    return add_trace(trainer, StepTrace(folder, setup.world.rank, setup.start_step + warmup, steps))


def build_checkpointer(
    setup: RunSetup, model: ModelParts, digests: Digests, timer: Timer, outputs: TrainerOutputs
) -> CheckpointerParts:
    """Build the checkpointer. Its states are listed after all of them exist."""
    options, world = setup.config.checkpoint, setup.world
    states: dict[str, Stateful] = {}
    gather = partial(gather_bytes, device=setup.device)
    has_ranks = setup.plan.ranks > 1

    def make_writing_ranks() -> RankExchange:
        return RankExchange(world.rank, make_background_gather()) if has_ranks else RankExchange()

    make_checkpointer = (
        partial(BackgroundCheckpointer, make_writing_ranks=make_writing_ranks) if options.background else Checkpointer
    )
    checkpointer = make_checkpointer(
        outputs.checkpoints,
        states,
        digests,
        keep=options.keep_last,
        timer=timer,
        warn=outputs.warn if options.on_error == "warn" else None,
        ranks=RankExchange(world.rank, gather) if has_ranks else RankExchange(),
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
    seq_len: SequenceLength | None,
) -> EvaluatorParts:
    """Build the metrics, and the evaluation of the validation split with the evaluation weights."""
    config, plan, data, hooks = setup.config, setup.plan, setup.data, setup.hooks
    mesh, data_world = place.mesh, place.coords.data_world
    make_batches = partial(make_unaugmented_batches, config, data.dataset, setup.device, plan.channels_last)
    metrics = Metrics(
        outputs.metrics,
        progress,
        learning_rate=lambda: get_learning_rate(model.optimizers),
        read_scheduled=add_seq_len(
            make_scheduled_reader(hooks.scheduled_values, model.optimizers, model.model), seq_len
        ),
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
            if setup.world.is_main and not is_collective:
                _write_sample(setup, model.model, metrics, progress.step)
        if mesh is not None:
            reshard(model.parallel.run_modules)
        return val_metrics

    best_from_step = max(hooks.mask_steps, default=0)
    evaluator = Evaluator(validate, metrics, saving.checkpointer, timer, plan.metrics[0], best_from_step)
    return EvaluatorParts(evaluator, metrics, make_batches)


def _write_sample(setup: RunSetup, model: nn.Module, metrics: Metrics, step: int) -> None:
    """Write a row with a text of the model, if the task has one. Nothing decides from it."""
    if text := setup.config.task.write_sample(model, setup.data.spec, setup.device):
        metrics.rewrite_row("sample", step, {"text": text})
