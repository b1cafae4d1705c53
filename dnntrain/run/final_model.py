"""Gather the trained model into one process for testing and export.

It has the weights and averages that the run evaluates and exports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dnntrain.checkpoint.checkpoint_folder import read_pointer
from dnntrain.checkpoint.digests import compute_tensors_digest
from dnntrain.checkpoint.portable_model import save_model
from dnntrain.checkpoint.read_checkpoint import Checkpoint, read_checkpoint
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState
from dnntrain.config.digest import compute_digest
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.errors import CheckpointError
from dnntrain.nn.feature_capture import add_adapters, remove_adapters
from dnntrain.protocols import Batch, BatchStage, Hooks, SingleProcess, Stateful, TrainerHandles
from dnntrain.run.session import Session, drop_init_weights
from dnntrain.training.build_model import build_filled_model
from dnntrain.training.components import bind_hooks
from dnntrain.training.data import build_training_pipeline, iterate_training_batches, make_unaugmented_batches
from dnntrain.training.evaluation import compute_predictions
from dnntrain.training.loss import build_objective
from dnntrain.training.restore import split_states
from dnntrain.training.setup import RunSetup
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.training.trainer import Trainer


@dataclass(frozen=True)
class FinalModel:
    """A network in one process, and how to evaluate it.

    step    the step of its weights
    digest  digest of the weights after the run's last step
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
    last_name, best_name = (read_pointer(directory.checkpoints, name) for name in ("LAST", "BEST"))
    if session.plan.ranks == 1 and not session.plan.has_collective_forward:
        last_name = f"step-{trainer.loop.progress.step}"
        checkpoint_name = best_name if session.config.eval.weights == "best" and best_name is not None else last_name
        if checkpoint_name != last_name:
            _load_weights(trainer, read_checkpoint(directory.checkpoints / checkpoint_name))
        step = int(checkpoint_name.removeprefix("step-"))
        return FinalModel(trainer.model, trainer.outputs, trainer.hooks, step)
    if last_name is None:
        raise CheckpointError(f"{directory.checkpoints} holds no checkpoint to load the network from")
    checkpoint_name = best_name if session.config.eval.weights == "best" and best_name is not None else last_name
    checkpoint = read_checkpoint(directory.checkpoints / checkpoint_name)
    last = checkpoint if checkpoint_name == last_name else read_checkpoint(directory.checkpoints / last_name)
    final_model = load_final_model(session.setup, checkpoint)
    return replace(final_model, digest=compute_tensors_digest(last.states["model"]))


def load_final_model(setup: RunSetup, checkpoint: Checkpoint) -> FinalModel:
    """Build the whole network in this process and fill it from a checkpoint, under any layout.

    The run's hooks are then bound to it.
    """
    setup.collectives.connect(SingleProcess())
    # Teachers, which may be sharded, do not change the inputs.
    batch_transforms = [item for item in setup.hooks.batch_transforms if item.stage is not BatchStage.TEACHER]
    hooks = replace(setup.hooks, batch_transforms=tuple(batch_transforms))
    setup = replace(
        setup, config=drop_init_weights(setup.config), hooks=hooks, world=World(), start_step=checkpoint.step
    )
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
        state.load_state_dict(checkpoint.states[name])
    objective = build_objective(config.task, hooks.label_smoothing, hooks.loss_terms, hooks.main_loss_weight)
    executor = SpmdExecutor(model, objective, device=setup.device, autocast=setup.autocast)
    return FinalModel(model, executor.compute_outputs, hooks, checkpoint.step)


def _load_weights(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Load the weights and averages of a checkpoint, with the optimizer's tensors that some are computed from."""
    for name in ("model", "optimizer", *split_states(trainer.hooks.state)[0]):
        trainer.states[name].load_state_dict(checkpoint.states[name])


def calibrate_outputs(session: Session, final_model: FinalModel) -> Session:
    """Return the session with a specification whose constants follow from the validation split.

    The weights that are evaluated must be swapped in.
    """
    task, data = session.config.task, session.data
    if not task.calibrates or not len(data.val):
        return session
    batches = make_unaugmented_batches(
        session.config, data.dataset, session.device, session.plan.channels_last, data.dataset.train, data.val, World()
    )
    predictions = compute_predictions(task, final_model.model, final_model.outputs, batches)
    return replace(session, data=replace(data, spec=task.calibrate(predictions, data.spec)))


def save_final_model(session: Session, final_model: FinalModel, folder: Path) -> None:
    """Write the network without training-only modules, and the metadata of the methods.

    The weights that are evaluated must be swapped in.
    """
    model, hooks, config, data = final_model.model, final_model.hooks, session.config, session.data
    remove_adapters(model)
    metadata = {name: value for make_metadata in hooks.export_metadata for name, value in make_metadata(model).items()}
    for transform in hooks.export_transforms:
        model = transform(model)
    save_model(
        model,
        folder,
        architecture=session.plan.model.name,
        spec=session.data.spec,
        model_args=dict(config.resolved["model"]),
        norm_args=dict(config.resolved["norm"]),
        extra={
            "dnntrain_config_digest": compute_digest(config.resolved),
            "data": {"digest": data.dataset.digest, **{name: len(index) for name, index in data.splits.items()}},
            "step": final_model.step,
            **metadata,
        },
    )
