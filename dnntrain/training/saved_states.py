"""The states that a checkpoint holds and a resume restores."""

from __future__ import annotations

from functools import partial

from dnntrain.checkpoint.state_dicts import ModelState, OptimizerState, RandomState, ScalerState
from dnntrain.distributed.collectives import gather_tensors
from dnntrain.protocols import Stateful
from dnntrain.training.progress import Progress
from dnntrain.training.restore import split_states
from dnntrain.training.setup import RunSetup
from dnntrain.training.trainer_parts import (
    CheckpointerParts,
    EvaluatorParts,
    ExecutorParts,
    ModelParts,
)


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
