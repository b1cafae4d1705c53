"""Every seam of dnntrain, and nothing else: what a method gives the trainer, and what the trainer gives a method.

A method (mixup, EMA, a schedule, early stopping …) is one frozen dataclass with a `build(context) -> Parts`. The trainer
knows the slots of `Parts` and the order of the stages below; it knows no method by name.
"""

from __future__ import annotations

from dnntrain.protocols.context import Alone, Built, Collectives, Context, Once
from dnntrain.protocols.hook_types import (
    Adjusted,
    AfterStep,
    BatchStage,
    BatchTransform,
    Capture,
    Control,
    Decision,
    FirstWeights,
    GradientStage,
    GradientTransform,
    Held,
    LossTerm,
    ModelStage,
    ModelTransform,
    Need,
    PixelTransform,
    Stateful,
    Stop,
    Target,
    View,
)
from dnntrain.protocols.hooks import Method, Parts
from dnntrain.protocols.step import Batch, Executor, Gradients, Moment, Outputs, StepBatch, StepLoss, Update
from dnntrain.protocols.step_guard import Action, Alarm, Clock, Guard, Seen

__all__ = [
    "Action",
    "Adjusted",
    "AfterStep",
    "Alarm",
    "Alone",
    "Batch",
    "BatchStage",
    "BatchTransform",
    "Built",
    "Capture",
    "Clock",
    "Collectives",
    "Context",
    "Control",
    "Decision",
    "Executor",
    "FirstWeights",
    "GradientStage",
    "GradientTransform",
    "Gradients",
    "Guard",
    "Held",
    "LossTerm",
    "Method",
    "ModelStage",
    "ModelTransform",
    "Moment",
    "Need",
    "Once",
    "Outputs",
    "Parts",
    "PixelTransform",
    "Seen",
    "Stateful",
    "StepBatch",
    "StepLoss",
    "Stop",
    "Target",
    "Update",
    "View",
]
