"""The parts that a trainer is built of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelizedModel, RankCoords
from dnntrain.input.source import Source
from dnntrain.protocols import Batch, Collectives, OptimizerStep, Stateful, StepExecutor
from dnntrain.training.checkpointer import Checkpointer
from dnntrain.training.evaluation import ComputeOutputs
from dnntrain.training.evaluator import Evaluator
from dnntrain.training.loop import Loop
from dnntrain.training.metrics_writer import Listener, Metrics
from dnntrain.training.step_guards import GuardRunner
from dnntrain.training.stop_signals import SignalWatch
from dnntrain.utils.rng import Index
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.powersgd import PowerSgd


#: Makes the batches of a split of a data set, unaugmented, for the ranks of a world.
MakeBatches = Callable[[Source, Index, World], Any]


@dataclass(frozen=True)
class TrainerOutputs:
    """The files that a trainer writes, if any, and the functions that it calls.

    metrics, checkpoints  the metrics file and the folder; only the main rank of a run has them
    traces                the folder of traces; every rank of a run has it
    listeners             receive each row of metrics
    warn                  receives warnings
    tick                  is called a few times a second with the number of steps done
    """

    metrics: Path | None = None
    checkpoints: Path | None = None
    traces: Path | None = None
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
class StepParts:
    """A step of the loop: the executor, the update, its second half, and the states of them."""

    executor: StepExecutor
    update: OptimizerStep
    apply: Callable[[], None]
    states: Mapping[str, Stateful] = field(default_factory=dict)


@dataclass(frozen=True)
class LoopParts:
    """The loop, the guards around its steps, and the signals that end it."""

    loop: Loop
    guard_runner: GuardRunner | None
    signals: SignalWatch
    states: Mapping[str, Stateful] = field(default_factory=dict)
