"""The step of the loop: an optimizer step, or the round of a federated run."""

from __future__ import annotations

from dnntrain.federated.payload import Payload
from dnntrain.input.pipeline import InputPipeline
from dnntrain.training.client_batches import ClientBatches
from dnntrain.training.metrics_writer import Metrics
from dnntrain.training.optimizer_step import build_apply, run_plain_step
from dnntrain.training.progress import Progress
from dnntrain.training.rounds import LocalTraining, RoundExecutor, make_correction
from dnntrain.training.setup import RunSetup
from dnntrain.training.step_guards import GuardRunner
from dnntrain.training.trainer_parts import ExecutorParts, ModelParts, StepParts


def build_step(
    setup: RunSetup,
    model: ModelParts,
    executor: ExecutorParts,
    pipeline: InputPipeline,
    metrics: Metrics,
    progress: Progress,
    guard_runner: GuardRunner | None,
) -> StepParts:
    """Build the optimizer step."""
    update = setup.hooks.optimizer_step or run_plain_step
    apply = build_apply(
        model.optimizers,
        model.trainable,
        setup.hooks.gradient_transforms,
        metrics.observe,
        executor.scaler,
        guard_runner.should_apply if guard_runner else None,
    )
    return StepParts(executor.executor, guard_runner.wrap_update(update) if guard_runner else update, apply)


def build_rounds(
    setup: RunSetup,
    model: ModelParts,
    executor: ExecutorParts,
    pipeline: InputPipeline,
    metrics: Metrics,
    progress: Progress,
    guard_runner: GuardRunner | None,
) -> StepParts:
    """Build the rounds of a federated run: the optimizer step is a client's."""
    federation = setup.hooks.federation
    assert federation is not None
    assert isinstance(pipeline, ClientBatches)
    if federation.rule is not None:
        federation.rule.bind(model.trainable)
    transforms = (*make_correction(federation.rule), *setup.hooks.gradient_transforms)
    local = LocalTraining(
        executor.executor,
        setup.hooks.optimizer_step or run_plain_step,
        # The numbers of a client's steps differ between ranks, so no row shows them.
        build_apply(model.optimizers, model.trainable, transforms, lambda numbers: None, None),
        model.optimizers,
    )
    rounds = RoundExecutor(
        federation,
        pipeline,
        Payload(model.model),
        local,
        seed=setup.config.seed,
        world=setup.world,
        device=setup.device,
        get_round=lambda: progress.step,
        observe=metrics.observe,
    )
    return StepParts(rounds, run_plain_step, rounds.apply, {"federation": rounds})
