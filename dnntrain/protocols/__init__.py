"""Every seam of dnntrain, and nothing else: what a method gives the trainer, and what the trainer gives a method.

A method (mixup, EMA, a schedule, early stopping …) is one frozen dataclass with a `build(context) -> Parts`. The trainer
knows the slots of `Parts` and the order of the stages below; it knows no method by name.
"""

from __future__ import annotations

from dnntrain.protocols.context import BuildCache, BuildContext, Collectives, SingleProcess, TrainerHandles
from dnntrain.protocols.hook_types import (
    Adjustment,
    AfterStepHook,
    BatchStage,
    BatchTransform,
    EvalWeights,
    FeatureTap,
    GradientStage,
    GradientTransform,
    ImageTransform,
    LayoutRequirement,
    LossTerm,
    MemoryUse,
    MetricCallback,
    ModelStage,
    ModelTransform,
    ScheduledParam,
    ScheduledValue,
    Stateful,
    StopTraining,
    WeightInit,
)
from dnntrain.protocols.hooks import Hooks, Method
from dnntrain.protocols.step import (
    Batch,
    ComputeGradients,
    ModelOutputs,
    OptimizerStep,
    StepBatch,
    StepExecutor,
    StepInfo,
    StepLoss,
)
from dnntrain.protocols.step_guard import Action, Alarm, StepGuard, StepStats, StepTiming

__all__ = [
    "Action",
    "Adjustment",
    "AfterStepHook",
    "Alarm",
    "Batch",
    "BatchStage",
    "BatchTransform",
    "BuildCache",
    "BuildContext",
    "Collectives",
    "ComputeGradients",
    "EvalWeights",
    "FeatureTap",
    "GradientStage",
    "GradientTransform",
    "Hooks",
    "ImageTransform",
    "LayoutRequirement",
    "LossTerm",
    "MemoryUse",
    "Method",
    "MetricCallback",
    "ModelOutputs",
    "ModelStage",
    "ModelTransform",
    "OptimizerStep",
    "ScheduledParam",
    "ScheduledValue",
    "SingleProcess",
    "Stateful",
    "StepBatch",
    "StepExecutor",
    "StepGuard",
    "StepInfo",
    "StepLoss",
    "StepStats",
    "StepTiming",
    "StopTraining",
    "TrainerHandles",
    "WeightInit",
]
