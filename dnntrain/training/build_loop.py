"""The loop over bound hooks: its events, its guards, and the update between them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dnntrain.distributed.collectives import reduce_any_flags, reduce_sum
from dnntrain.input.pipeline import InputPipeline
from dnntrain.training.build_step import build_rounds, build_step
from dnntrain.training.cadence import Cadence, Event, make_event
from dnntrain.training.loop import Batches, Loop
from dnntrain.training.metrics_writer import Metrics
from dnntrain.training.progress import Progress
from dnntrain.training.reshape import make_mask_events, make_reshape_events
from dnntrain.training.scheduled_values import bind_scheduled_values
from dnntrain.training.seq_len import SequenceLength, ShortBatches
from dnntrain.training.setup import RunSetup
from dnntrain.training.step_guards import GuardRunner
from dnntrain.training.stop_signals import SignalWatch, StoppableBatches
from dnntrain.training.trainer_parts import (
    CheckpointerParts,
    EvaluatorParts,
    ExecutorParts,
    LoopParts,
    ModelParts,
    RankPlace,
    TrainerOutputs,
)

if TYPE_CHECKING:
    pass


#: Seconds between two refreshes of the display.
_TICK_S = 0.25


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
    seq_len: SequenceLength | None,
) -> LoopParts:
    """Build the loop over bound hooks: its events, its guards, and the update between them."""
    hooks, plan, metrics = setup.hooks, setup.plan, evaluation.metrics
    signals = SignalWatch(progress, partial(reduce_any_flags, device=setup.device) if plan.ranks > 1 else None)
    guard_runner = _build_guard_runner(setup, place, model, executor, saving, metrics, progress)
    batches: Batches = pipeline if plan.ranks > 1 else StoppableBatches(pipeline, progress)
    if seq_len is not None:
        batches = ShortBatches(batches, seq_len)
    build = build_step if hooks.federation is None else build_rounds
    step = build(setup, model, executor, pipeline, metrics, progress, guard_runner)
    loop = Loop(
        progress=progress,
        batches=guard_runner.time_batches(batches) if guard_runner else batches,
        setters=bind_scheduled_values(
            hooks.scheduled_values, model.optimizers, model.model, must_find=plan.degrees.pp == 1
        ),
        executor=step.executor,
        update=step.update,
        apply=step.apply,
        after_step=hooks.after_step_hooks,
        metrics=metrics,
        cadence=Cadence(_list_events(setup, signals, saving, evaluation, progress, outputs), progress.total_steps),
    )
    return LoopParts(loop, guard_runner, signals, step.states)


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
        *make_mask_events(setup.hooks.mask_steps, evaluation.metrics),
        *([make_event(evaluation.evaluator, config.eval.every, progress)] if has_validation else []),
        make_event(saving.checkpointer, config.checkpoint.every, progress),
        *make_reshape_events(setup.hooks.reshaping, saving.checkpointer, config.checkpoint.every, progress, signals),
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
