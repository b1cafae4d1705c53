"""Gather the trained model into one process for testing and export.

It has the weights and averages that the run evaluates and exports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnntrain.checkpoint.checkpoint import read_checkpoint, read_pointer
from dnntrain.checkpoint.digests import compute_tensors_digest
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.errors import CheckpointError
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.protocols import Batch, BatchStage, Hooks, SingleProcess, Stateful, TrainerHandles
from dnntrain.run.session import Session, drop_init_weights
from dnntrain.training.components import bind_hooks
from dnntrain.training.data import build_training_pipeline, iterate_training_batches
from dnntrain.training.loss import build_objective
from dnntrain.training.restore import split_states
from dnntrain.training.setup import RunSetup
from dnntrain.training.trainer import build_filled_model
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.training.trainer import Trainer


@dataclass(frozen=True)
class FinalModel:
    """A network in one process, and how to evaluate it.

    `step` is the step of its weights. `digest` is the digest of the weights after the run's last
    step.
    """

    model: nn.Module
    outputs: Callable[[Batch], torch.Tensor]
    hooks: Hooks
    step: int
    digest: str | None = None


def build_final_model(session: Session, trainer: Trainer, directory: RunDirectory) -> FinalModel:
    """Return the trained network, with the best weights if `eval.weights` asks for them.

    One process has it already. Of several ranks the main one builds it again and loads it from the
    checkpoint, under any layout.
    """
    if session.plan.ranks == 1 and not session.plan.has_collective_forward:
        step = trainer.loop.progress.step
        if session.config.eval.weights == "best":
            step = _load_best(trainer, directory)
        return FinalModel(trainer.model, trainer.outputs, trainer.hooks, step)
    last_name, best_name = (read_pointer(directory.checkpoints, name) for name in ("LAST", "BEST"))
    if last_name is None:
        raise CheckpointError(f"{directory.checkpoints} holds no checkpoint to load the network from")
    checkpoint_name = best_name if session.config.eval.weights == "best" and best_name is not None else last_name
    checkpoint = read_checkpoint(directory.checkpoints / checkpoint_name)
    states = checkpoint.states
    last_states = states if checkpoint_name == last_name else read_checkpoint(directory.checkpoints / last_name).states
    return _load_final_model(session.setup, states, checkpoint.step, compute_tensors_digest(last_states["model"]))


def _load_final_model(setup: RunSetup, states: Mapping[str, Any], step: int, digest: str) -> FinalModel:
    """Build the whole network in this process and fill it from a checkpoint.

    The run's hooks are then bound to it.
    """
    setup.collectives.connect(SingleProcess())
    # Teachers, which may be sharded, do not change the inputs.
    batch_transforms = [item for item in setup.hooks.batch_transforms if item.stage is not BatchStage.TEACHER]
    hooks = replace(setup.hooks, batch_transforms=tuple(batch_transforms))
    setup = replace(setup, config=drop_init_weights(setup.config), hooks=hooks, world=World())
    config, plan = setup.config, setup.plan
    model = build_filled_model(setup)
    add_adapters(model, hooks.feature_taps)
    optimizers = config.optim.adapt_lr(plan.batch_size).build(model)
    if config.norm.joins_ranks:
        # Statistics that are recomputed here are of the passes that the ranks computed together.
        plan = replace(plan, micro_batch_size=plan.micro_batch_size * plan.degrees.data_ranks)
    pipeline = build_training_pipeline(config, plan, setup.data, hooks, World(), setup.device)
    training_batches = partial(iterate_training_batches, pipeline)
    bind_hooks(hooks, TrainerHandles(model, optimizers, training_batches, SingleProcess()))
    states_by_name: dict[str, Stateful] = {
        "model": ModelState(model),
        "optimizer": OptimizerState(optimizers),
        **split_states(hooks.state)[0],
    }
    for name, state in states_by_name.items():
        state.load_state_dict(states[name])
    objective = build_objective(config.task, hooks.label_smoothing, hooks.loss_terms, hooks.main_loss_weight)
    executor = SpmdExecutor(model, objective, device=setup.device_type, autocast=setup.autocast)
    return FinalModel(model, executor.compute_outputs, hooks, step, digest)


def _load_best(trainer: Trainer, directory: RunDirectory) -> int:
    """Load the weights (and averages) of the best evaluation, unless it is the last step; return its step."""
    last_step = trainer.loop.progress.step
    best_name = read_pointer(directory.checkpoints, "BEST")
    if best_name is None or best_name == f"step-{last_step}":
        return last_step
    checkpoint = read_checkpoint(directory.checkpoints / best_name)
    for name in ("model", *split_states(trainer.hooks.state)[0]):
        trainer.states[name].load_state_dict(checkpoint.states[name])
    return checkpoint.step
