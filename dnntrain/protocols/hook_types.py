"""What a method can give the trainer, kind by kind; the slots themselves are those of `Parts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from dnntrain.protocols.step import Batch, ModelOutputs, StepInfo
from dnntrain.utils.rng import Index, Key

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class ModelStage(IntEnum):
    """When a model transform runs, in this order."""

    NORM = auto()
    STRUCTURE = auto()
    QUANTIZE = auto()


class BatchStage(IntEnum):
    """When a batch transform runs, in this order."""

    AUGMENT = auto()
    MIX = auto()
    TARGET = auto()
    TEACHER = auto()


class GradientStage(IntEnum):
    """When a gradient transform runs, after the global reduction, in this order."""

    PENALTY = auto()
    CHECK = auto()
    CLIP = auto()
    DECAY = auto()


class LayoutRequirement(Enum):
    """What a method needs of the layout; `rules.py` crosses needs with what each layout provides."""

    WHOLE_PARAMETER = "each parameter whole in one process"
    WHOLE_LAYER = "each layer whole while it computes"
    WHOLE_MODEL = "the whole model in one process"
    FEATURES = "outputs of inner modules"
    SECOND_PASS = "a second forward and backward pass in a step"


@dataclass(frozen=True)
class ModelTransform:
    """A change of the model's modules: returns the same or another module."""

    stage: ModelStage
    apply: Callable[[Module], Module]


class MemoryUse(NamedTuple):
    """What a method holds on a rank besides the model that is trained.

    weights        bytes of a network of its own
    activations    bytes that it computes with
    weight_copies  copies of the trained weights, laid out as those are
    """

    weights: int = 0
    activations: int = 0
    weight_copies: int = 0


#: Sets first weights from data: `(model, images)`, images float [n, channels, height, width] of the training part, normalised.
WeightInit = Callable[["Module", "Tensor"], None]


@dataclass(frozen=True)
class BatchTransform:
    """A change of a batch without gradient. All randomness comes from `Key` and the batch's index or position.

    `joint`: the ranks compute it together. It reads images only, and adds `extras` only; every rank calls it as often, once a step for
    all of its examples, also where it has none.
    """

    stage: BatchStage
    apply: Callable[[Batch, Key], Batch]
    is_joint: bool = False


#: A change of the bytes of training images, before they are normalised: `(images uint8 [n, channels, height, width], number [n], key)` →
#: uint8 of the same shape, a new tensor. `number` is what an example's random choices are keyed by. It may run in a reading process, on
#: one image: it is picklable, and an image comes out the same alone and among others.
ImageTransform = Callable[["Tensor", Index, Key], "Tensor"]


@dataclass(frozen=True)
class FeatureTap:
    """Outputs of the inner module called `module` (its exact name), for a loss term to read as `outputs.features[name]`.

    `adapter`, where there is one, is applied to them and trained with the model, but is no part of what is exported.
    """

    name: str
    module: str
    adapter: Module | None = None


@dataclass(frozen=True)
class LossTerm:
    """One term of the objective: `(outputs, batch) → [n]`, times `weight`. `name` is its column in the metrics."""

    name: str
    apply: Callable[[ModelOutputs, Batch], Tensor]
    weight: float = 1.0


@dataclass(frozen=True)
class GradientTransform:
    """A change of the gradients in place, after the global reduction. May return numbers to log, as tensors without sync."""

    stage: GradientStage
    apply: Callable[[Sequence[Tensor]], Mapping[str, Tensor] | None]


class ScheduledParam(Enum):
    """What a control sets. DROP_RATE: the probability of every dropout of the model.

    BATCH_SIZE: examples of a step; a factor that is asked once for each epoch, when the run is planned.
    """

    LEARNING_RATE = "lr"
    MOMENTUM = "momentum"
    WEIGHT_DECAY = "weight_decay"
    DROP_RATE = "drop_rate"
    BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class ScheduledValue:
    """A value set before each step: `value(moment)` is a pure function, or reads state that is saved and the same on all ranks.

    For the learning rate it is a *factor* on each parameter group's base rate; else the value itself, or, where `relative`, a factor
    on what each group or module was built with. `target` may also be a function that, given the model, returns the setter: a
    method's own knob.
    """

    target: ScheduledParam | Callable[[Module], Callable[[float], None]]
    value: Callable[[StepInfo], float]
    is_relative: bool = False


@runtime_checkable
class Stateful(Protocol):
    """What must survive a resume. Tensors and JSON values only; loading is strict."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AfterStepHook(Protocol):
    """Runs after each optimizer step."""

    def __call__(self, step_info: StepInfo) -> None: ...


class EvalWeights(Protocol):
    """Another state to evaluate and export: averaged weights, recomputed statistics … `applied` puts it in place and back out.

    `replaces` is "weights" or "statistics": at most one method may give each; weights are put in place first.
    """

    @property
    def replaces(self) -> str: ...

    def swap_in(self, model: Module) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class StopTraining:
    """A decision to end the run; it counts as done, with this reason."""

    reason: str


@dataclass(frozen=True)
class Adjustment:
    """A decision that changed something: written as a row of split "event" with `event`, `reason` and `values`."""

    event: str
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


class MetricCallback(Protocol):
    """Looks at each row of metrics, which is identical on all ranks, and may stop the run, adjust it, or raise DivergedError."""

    def __call__(self, row: Mapping[str, Any]) -> StopTraining | Adjustment | None: ...
