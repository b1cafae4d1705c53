"""The types of the objects in the slots of `Hooks`."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    """The stages of model transforms, in the order in which they run."""

    NORM = auto()
    STRUCTURE = auto()
    QUANTIZE = auto()


class BatchStage(IntEnum):
    """The stages of batch transforms, in the order in which they run."""

    AUGMENT = auto()
    MIX = auto()
    TARGET = auto()
    TEACHER = auto()


class GradientStage(IntEnum):
    """The stages of gradient transforms, in the order in which they run.

    All run after the global reduction.
    """

    PENALTY = auto()
    CHECK = auto()
    CLIP = auto()
    DECAY = auto()


class LayoutRequirement(Enum):
    """A property of the layout that a method may need.

    `planning/checks/combinations.py` compares these needs with the properties of each layout.
    """

    WHOLE_PARAMETER = "each parameter whole in one process"
    WHOLE_LAYER = "each layer whole while it computes"
    WHOLE_MODEL = "the whole model in one process"
    FEATURES = "outputs of inner modules"
    SECOND_PASS = "a second forward and backward pass in a step"


@dataclass(frozen=True)
class ModelTransform:
    """A change of the model; `apply` returns the same or another module."""

    stage: ModelStage
    apply: Callable[[Module], Module]


class MemoryUse(NamedTuple):
    """The memory that a method needs on a rank besides the trained model.

    weights        bytes of the weights of a further network
    activations    bytes of the activations of that network
    weight_copies  copies of the trained weights, sharded like the weights
    """

    weights: int = 0
    activations: int = 0
    weight_copies: int = 0


#: Initializes weights from data: `(model, images)`, with normalized training images, float
#: [n, channels, height, width].
WeightInit = Callable[["Module", "Tensor"], None]


@dataclass(frozen=True)
class BatchTransform:
    """A change of a batch, without gradient.

    All randomness must come from `Key` and the index or position of the batch.

    is_joint  whether the ranks compute it together. Such a transform reads images only and adds
              `extras` only. Every rank calls it once a step for all of its examples, even if it has
              no examples
    """

    stage: BatchStage
    apply: Callable[[Batch, Key], Batch]
    is_joint: bool = False


#: A change of training images before they are normalized:
#: `(images uint8 [n, channels, height, width], rng_index [n], key)` → a new uint8 tensor of the same
#: shape. `rng_index` keys the random choices of each example. The function may run in a reader
#: process on a single image, so it must be picklable, and the result for an image must not depend on
#: the other images.
ImageTransform = Callable[["Tensor", Index, Key], "Tensor"]


#: The same change of masks, uint8 [n, 1, height, width] with the class of each pixel: it moves pixels
#: as the image transform does, with the same draws. Values are those of the nearest pixel, and 255
#: outside the image.
MaskTransform = Callable[["Tensor", Index, Key], "Tensor"]


def keep_masks(masks: Tensor, rng_index: Index, key: Key) -> Tensor:
    """Return the masks as they are: the MaskTransform of a change that moves no pixel."""
    return masks


@dataclass(frozen=True)
class FeatureTap:
    """A request for the outputs of an inner module.

    A loss term reads them as `outputs.features[name]`.

    module   exact name of the module
    adapter  module that is applied to the outputs, if any; it is trained with the model and not
             exported
    """

    name: str
    module: str
    adapter: Module | None = None


@dataclass(frozen=True)
class LossTerm:
    """One term of the objective: `(outputs, batch) → [n]`, times `weight`.

    `name` is the column of the term in the metrics.
    """

    name: str
    apply: Callable[[ModelOutputs, Batch], Tensor]
    weight: float = 1.0


@dataclass(frozen=True)
class GradientTransform:
    """A change of the gradients in place, after the global reduction.

    `apply` may return numbers to log, as tensors on the device, so that the host need not wait.
    """

    stage: GradientStage
    apply: Callable[[Sequence[Tensor]], Mapping[str, Tensor] | None]


class ScheduledParam(Enum):
    """A value that a schedule can set.

    DROP_RATE   the probability of every dropout layer of the model
    BATCH_SIZE  the examples of a step; the factor is evaluated once for each epoch, when the run is
                planned
    SEQ_LEN     the tokens of each example of a step, cut at its end
    """

    LEARNING_RATE = "lr"
    MOMENTUM = "momentum"
    WEIGHT_DECAY = "weight_decay"
    DROP_RATE = "drop_rate"
    BATCH_SIZE = "batch_size"
    SEQ_LEN = "seq_len"

    @property
    def is_in_every_run(self) -> bool:
        """Whether the value is that of a step, not of modules or optimizers which a run may not have."""
        return self in (ScheduledParam.LEARNING_RATE, ScheduledParam.BATCH_SIZE, ScheduledParam.SEQ_LEN)


@dataclass(frozen=True)
class ScheduledValue:
    """A value that the trainer sets before each step.

    target       the value to set, or a function that takes the model and returns a setter, for an
                 option of the method itself
    value        `value(step_info)`: a pure function, or one that reads state which is saved and
                 equal on all ranks. For the learning rate, it is a factor on the base rate of each
                 parameter group; for other targets, the value itself
    is_relative  whether `value` is a factor on the value that each group or module was built with
    """

    target: ScheduledParam | Callable[[Module], Callable[[float], None]]
    value: Callable[[StepInfo], float]
    is_relative: bool = False


@runtime_checkable
class Stateful(Protocol):
    """State that is saved in checkpoints.

    It consists of tensors and JSON values only, and loading is strict.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AfterStepHook(Protocol):
    """A function that runs after each optimizer step."""

    def __call__(self, step_info: StepInfo) -> None: ...


@runtime_checkable
class EvalWeights(Protocol):
    """Other weights or statistics to evaluate and export.

    Examples are averaged weights and recomputed statistics.

    `replaces` is "weights" or "statistics". At most one method may replace each; weights are swapped
    in first. `swap_in` returns a context within which the model has the other state.
    """

    @property
    def replaces(self) -> str: ...

    def swap_in(self, model: Module) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class StopTraining:
    """A decision to end the run. The run counts as done, with this reason."""

    reason: str


@dataclass(frozen=True)
class Adjustment:
    """A report that a callback changed a value of the run.

    It is written as a row of split "event" with `event`, `reason` and `values`.
    """

    event: str
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


class MetricCallback(Protocol):
    """A function that reads each row of metrics.

    It may stop the run, adjust it, or raise DivergedError.

    Rows are equal on all ranks.
    """

    def __call__(self, row: Mapping[str, Any]) -> StopTraining | Adjustment | None: ...


class ReplayedCallback(ABC):
    """A metric callback whose decisions follow from the rows alone, so that its options may change on resume.

    It is then reset and reads all rows again. A row of split "event" with event "extended" says that
    the run continues after this callback, or another, has ended it.
    """

    @abstractmethod
    def __call__(self, row: Mapping[str, Any]) -> StopTraining | None:
        """Read one row of metrics."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all rows."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state after the rows so far."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
