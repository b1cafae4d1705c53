"""The finished network of a run in this process alone: whole, with the weights and averages that are tested and exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnntrain.checkpoint.checkpoint import pointer, read
from dnntrain.checkpoint.digests import tensors_digest
from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.errors import CheckpointError
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.protocols import Alone, Batch, Built, Parts, Stateful
from dnntrain.run.session import Session, with_saved_weights
from dnntrain.training.components import bind, collect, make_context
from dnntrain.training.data import training_batches, training_pipeline
from dnntrain.training.loss import build_objective
from dnntrain.training.trainer import make_model
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.training.trainer import Trainer


@dataclass(frozen=True)
class Whole:
    """A network in one process, and what evaluates it. `digest` is that of the weights of the run's last step."""

    model: nn.Module
    outputs: Callable[[Batch], torch.Tensor]
    parts: Parts
    digest: str | None = None


def whole_network(session: Session, trainer: Trainer, directory: RunDirectory) -> Whole:
    """The trained network, with the best weights in place where `eval.weights` asks for them.

    One process has it already. Of several ranks the main one builds it anew and loads it from the checkpoint, whatever the layout was.
    """
    if session.plan.ranks == 1 and not session.plan.in_step:
        if session.config.eval.weights == "best":
            _take_best(trainer, directory)
        return Whole(trainer.model, trainer.outputs, trainer.parts)
    last, best = (pointer(directory.checkpoints, name) for name in ("LAST", "BEST"))
    if last is None:
        raise CheckpointError(f"{directory.checkpoints} holds no checkpoint that the network could be taken from")
    chosen = best if session.config.eval.weights == "best" and best is not None else last
    states = read(directory.checkpoints / chosen).states
    of_last = states if chosen == last else read(directory.checkpoints / last).states
    return _loaded(session, states, tensors_digest(of_last["model"]))


def _loaded(session: Session, states: Any, digest: str) -> Whole:
    config, plan, device = with_saved_weights(session.config), session.plan, session.device
    context = make_context(config, plan, session.data, device, World(), Alone())
    parts = collect(config, context)
    model = make_model(config, plan, session.data, parts, device)
    add_adapters(model, parts.captures)
    optimizers = config.optim.scaled(plan.batch_size).build(model)
    pipeline = training_pipeline(config, plan, session.data, parts, World(), device)
    bind(parts, Built(model, optimizers, partial(training_batches, pipeline), context.collect))
    kept: dict[str, Stateful] = {"model": ModelState(model), "optimizer": OptimizerState(optimizers), **parts.state}
    for name, state in kept.items():
        state.load_state_dict(states[name])
    autocast = getattr(torch, plan.precision.autocast) if plan.precision.autocast else None
    objective = build_objective(parts.label_smoothing, parts.loss, parts.task_weight)
    executor = SpmdExecutor(model, objective, device=device.split(":")[0], autocast=autocast)
    return Whole(model, executor.outputs, parts, digest)


def _take_best(trainer: Trainer, directory: RunDirectory) -> None:
    """Puts the weights (and averages) of the best evaluation in place, where that is not the last step."""
    best = pointer(directory.checkpoints, "BEST")
    if best is None or best == f"step-{trainer.loop.progress.step}":
        return
    states = read(directory.checkpoints / best).states
    for name in ("model", *trainer.parts.state):
        trainer.states[name].load_state_dict(states[name])
