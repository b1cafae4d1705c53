"""Every seam of dnntrain, and nothing else: what a method gives the trainer, and what the trainer gives a method.

A method (mixup, EMA, a schedule, early stopping …) is one frozen dataclass with a `build(context) -> Parts`. The trainer
knows the slots of `Parts` and the order of the stages below; it knows no method by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from enum import Enum, IntEnum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from dnntrain.keys import Index, Key, number_of
from dnntrain.timetable import Timetable
from dnntrain.world import World

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

Made = TypeVar("Made")


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


class Need(Enum):
    """What a method needs of the layout; `rules.py` crosses needs with what each layout provides."""

    WHOLE_PARAMETER = "each parameter whole in one process"
    WHOLE_LAYER = "each layer whole while it computes"
    WHOLE_MODEL = "the whole model in one process"
    FEATURES = "outputs of inner modules"
    SECOND_PASS = "a second forward and backward pass in a step"


@dataclass(slots=True)
class Batch:
    """Examples of one micro-batch, on the training device.

    images   float [n, channels, height, width], normalised
    targets  int64 [n] class indices, or float [n, classes] probabilities
    index    int64 [n] number of each example in its data set (numpy, on the host)
    position int64 [n] place of each example in the epoch's global order (numpy, on the host)
    epoch    which pass over the training part
    copy     int64 [n] which copy of its example in the step each is, from 0; None where there are no copies (numpy, on the host)
    extras   further tensors with one row an example, by name: what a transform adds for a loss to read (a teacher's outputs)
    """

    images: Tensor
    targets: Tensor
    index: Index
    position: Index
    epoch: int = 0
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    copy: Index | None = None

    @property
    def number(self) -> Index:
        """int64 [n]: what random choices about an example are keyed by; another for each copy."""
        return self.index if self.copy is None else number_of(self.index, self.copy)

    def __len__(self) -> int:
        return len(self.images)


class StepBatch(NamedTuple):
    """The micro-batches that this rank computes in one optimizer step, and the number of `examples` on all ranks.

    `passes`: micro-batches of the rank that has most. A rank with fewer fills up with empty ones: layers may communicate in each pass.
    """

    micro: Sequence[Batch]
    examples: int
    passes: int = 1


class Outputs(NamedTuple):
    """What the model gives for a batch: `logits` [n, classes], and `features`, outputs of inner modules by the name of their capture."""

    logits: Tensor
    features: Mapping[str, Tensor]


class Moment(NamedTuple):
    """A point of the run: `step` optimizer steps are done; `fraction` of the run in [0, 1]; `epoch` as a real number."""

    step: int
    epoch: float
    fraction: float


class Collectives(Protocol):
    """What ranks compute together. In one process each is the plain thing.

    Ranks of one `data` group hold other examples and the same parameters (or other shards of them); the ranks of a model-parallel
    group hold the same examples.
    """

    @property
    def data_ranks(self) -> int:
        """Ranks among which a batch is divided."""
        ...

    def data_sum(self, tensor: Tensor) -> Tensor:
        """The sum over the data group, on every rank of it; differentiable: its gradient is the sum of the gradients. Not in place."""
        ...

    def data_max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over the data group, on every rank of it; not differentiable. Not in place."""
        ...

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        """float32 scalar: Σ t² over the *whole* of `tensors`, of which this rank may hold shards, and over all pipeline stages."""
        ...

    @property
    def shard_ranks(self) -> int:
        """Ranks among which weights lie in parts; 1 where each holds them whole. They are of one `data` group."""
        ...

    def shard(self, model: Module, units: Sequence[Module]) -> None:
        """Cuts the weights of `model`, equal on all ranks, among those. Each of `units` gathers its own while it runs; so does the rest.

        From then on all ranks must call `model` equally often.
        """
        ...


@dataclass(frozen=True)
class Alone:
    """The collectives of one process."""

    data_ranks: int = 1

    def data_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def data_max(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.nn.utils.get_total_norm(tensors).square()

    @property
    def shard_ranks(self) -> int:
        return 1

    def shard(self, model: Module, units: Sequence[Module]) -> None:
        """The one process holds it whole."""


class Once:
    """What is needed twice, to be checked before a run begins and to be used in it, is made once: who asks second takes it away."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` makes, or made for who asked for `key` before."""
        if key in self._made:
            taken: Made = self._made.pop(key)
            return taken
        self._made[key] = made = make()
        return made

    def forget(self) -> None:
        """Nobody will ask again in this process."""
        self._made.clear()


@dataclass(frozen=True)
class Context:
    """Frozen values that a method may build from; never the configuration.

    input_shape      (channels, height, width) of one example
    steps_per_epoch  0 where epochs have different numbers of steps, or it is not known yet: see `times`
    total_steps      optimizer steps of the run; 0 where the run's length is a time
    batch_size       examples per optimizer step over all ranks, as set in `train.batch_size`
    learning_rate    the base learning rate, as set in `optim.lr`
    collect          what the ranks compute together
    class_names      of the data, in the order of the outputs
    mean, std        per channel, what the images are normalised with, of pixels in [0, 1]
    data_digest      SHA-256 of the data set
    train_examples   examples of the training part
    micro_batch_size most examples of one forward pass
    pair_block       examples that methods relate to each other: aligned runs of this many positions are never cut where avoidable
    student          builds the model to be trained with weights of zero, before any transform: for names and shapes of its modules
    once             loads what is large, such as a teacher: methods are built twice, the first time to refuse what cannot work
    epochs           the run's length where the schedule counts epochs, since it sets the batch size; else 0
    timetable        the batch size of each epoch; None where all have `batch_size`
    """

    seed: int
    num_classes: int
    input_shape: tuple[int, int, int]
    steps_per_epoch: int
    total_steps: int
    batch_size: int
    learning_rate: float
    device: str = "cpu"
    world: World = field(default_factory=World)
    collect: Collectives = field(default_factory=Alone)
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    data_digest: str = ""
    train_examples: int = 0
    micro_batch_size: int = 0
    pair_block: int = 8
    student: Callable[[], Module] | None = None
    once: Once = field(default_factory=Once, compare=False)
    epochs: float = 0.0
    timetable: Timetable | None = None

    @cached_property
    def times(self) -> Timetable:
        """When epochs begin, and how many examples their steps have."""
        examples = self.train_examples or self.steps_per_epoch * self.batch_size
        return self.timetable or Timetable.constant(examples, self.batch_size)


@dataclass(frozen=True)
class Built:
    """What stands once the trainer is built; every object in a slot that has a `bind` is given it, once.

    model            the network by its plain names; its parameters may be shards (DTensor), and on a pipeline stage only its own
    optimizers       those that step
    training_batches `training_batches(steps)`: this rank's share of the batches of that many steps, prepared as for training (augmented,
                     mixed), always the same ones: for statistics, such as those of batch norm. As many on all ranks: some may be empty
    collect          what the ranks compute together
    """

    model: Module
    optimizers: Sequence[Optimizer]
    training_batches: Callable[[int], Iterator[Batch]]
    collect: Collectives


@dataclass(frozen=True)
class ModelTransform:
    """A change of the model's modules: returns the same or another module."""

    stage: ModelStage
    apply: Callable[[Module], Module]


class Held(NamedTuple):
    """Bytes that a method holds on a rank besides the model that is trained: of a network's `weights`, and what it computes with."""

    weights: int
    activations: int


#: Sets first weights from data: `(model, images)`, images float [n, channels, height, width] of the training part, normalised.
FirstWeights = Callable[["Module", "Tensor"], None]


@dataclass(frozen=True)
class BatchTransform:
    """A change of a batch without gradient. All randomness comes from `Key` and the batch's index or position.

    `joint`: the ranks compute it together. It reads images only, and adds `extras` only; every rank calls it as often, once a step for
    all of its examples, also where it has none.
    """

    stage: BatchStage
    apply: Callable[[Batch, Key], Batch]
    joint: bool = False


#: A change of the bytes of training images, before they are normalised: `(images uint8 [n, channels, height, width], number [n], key)` →
#: uint8 of the same shape, a new tensor. `number` is what an example's random choices are keyed by. It may run in a reading process, on
#: one image: it is picklable, and an image comes out the same alone and among others.
PixelTransform = Callable[["Tensor", Index, Key], "Tensor"]


@dataclass(frozen=True)
class Capture:
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
    apply: Callable[[Outputs, Batch], Tensor]
    weight: float = 1.0


@dataclass(frozen=True)
class GradientTransform:
    """A change of the gradients in place, after the global reduction. May return numbers to log, as tensors without sync."""

    stage: GradientStage
    apply: Callable[[Sequence[Tensor]], Mapping[str, Tensor] | None]


class Target(Enum):
    """What a control sets. DROP_RATE: the probability of every dropout of the model.

    BATCH_SIZE: examples of a step; a factor that is asked once for each epoch, when the run is planned.
    """

    LEARNING_RATE = "lr"
    MOMENTUM = "momentum"
    WEIGHT_DECAY = "weight_decay"
    DROP_RATE = "drop_rate"
    BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class Control:
    """A value set before each step: `value(moment)` is a pure function, or reads state that is saved and the same on all ranks.

    For the learning rate it is a *factor* on each parameter group's base rate; else the value itself, or, where `relative`, a factor
    on what each group or module was built with. `target` may also be a function that, given the model, returns the setter: a
    method's own knob.
    """

    target: Target | Callable[[Module], Callable[[float], None]]
    value: Callable[[Moment], float]
    relative: bool = False


@runtime_checkable
class Stateful(Protocol):
    """What must survive a resume. Tensors and JSON values only; loading is strict."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AfterStep(Protocol):
    """Runs after each optimizer step."""

    def __call__(self, moment: Moment) -> None: ...


class View(Protocol):
    """Another state to evaluate and export: averaged weights, recomputed statistics … `applied` puts it in place and back out.

    `replaces` is "weights" or "statistics": at most one method may give each; weights are put in place first.
    """

    @property
    def replaces(self) -> str: ...

    def applied(self, model: Module) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Stop:
    """A decision to end the run; it counts as done, with this reason."""

    reason: str


@dataclass(frozen=True)
class Adjusted:
    """A decision that changed something: written as a row of split "event" with `event`, `reason` and `values`."""

    event: str
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


class Decision(Protocol):
    """Looks at each row of metrics, which is identical on all ranks, and may stop the run, adjust it, or raise DivergedError."""

    def __call__(self, row: Mapping[str, Any]) -> Stop | Adjusted | None: ...


class Action(IntEnum):
    """What an alarm asks for, the gravest last."""

    LOG = auto()
    SKIP = auto()
    ROLLBACK = auto()
    STOP = auto()


@dataclass(frozen=True)
class Alarm:
    """What a guard has found: written as a row of split "event", and acted upon.

    SKIP      the step's gradients are not applied: neither weights nor momentum nor buffers change, on any rank
    ROLLBACK  back to the last checkpoint, the learning rate times `cut` from there on, the step's examples left out. Where `good_until` is
              stated, the cause lies in a step after that one: back to the last checkpoint from there or before, and nothing is left out
    STOP      the run ends as diverged, as it does after `recoveries` skips in a row or rollbacks of the run
    """

    event: str
    reason: str
    action: Action
    values: Mapping[str, float] = field(default_factory=dict)
    recoveries: int = 0
    cut: float = 1.0
    good_until: int | None = None


class Clock(NamedTuple):
    """Number of the step, from 1, and the seconds that this rank waited for its batch."""

    step: int
    waited_s: float


class Seen(NamedTuple):
    """A step as all ranks see it, before its gradients are applied.

    step           its number, from 1
    loss           mean over the examples of all ranks; not finite where that of any is not
    gradient_norm  global L2 norm before clipping; infinite where a gradient is not finite on any rank
    sums           what the guard measured, summed over all ranks; empty where it measured nothing
    """

    step: int
    loss: float
    gradient_norm: float
    sums: Sequence[float]


class Guard(Protocol):
    """Watches each step between gradients and update. Decides from `Seen` and its own state alone, so that all ranks decide the same.

    `sees_gradients`: loss and norm are read at every step, for which the host waits for the device; else they are NaN.
    `action` is the gravest that it may ask for. One whose alarms state `good_until` has an attribute `may_go_back_to`, steps
    that it may state: their checkpoints are kept.
    """

    @property
    def sees_gradients(self) -> bool: ...

    @property
    def action(self) -> Action: ...

    def measure(self, clock: Clock) -> Tensor | None:
        """float [k] on the device, of this rank; None, in the same steps on all ranks, where there is nothing to sum."""
        ...

    def judge(self, seen: Seen) -> Alarm | None: ...


class StepLoss(NamedTuple):
    """Sum of the losses of the step's examples on this rank; `examples` on all ranks: a tensor on the device, not yet read."""

    total: Tensor
    examples: int


class Gradients(Protocol):
    """Computes the gradients of the step's batch; `replay` repeats it with the same random numbers (SAM)."""

    def __call__(self, replay: bool = False) -> StepLoss: ...


class Update(Protocol):
    """One optimizer step: plain is `loss = gradients(); apply(); return loss`.

    An update that asks for the gradients twice replays the first pass's random numbers with `gradients(replay=True)`.
    """

    def __call__(self, gradients: Gradients, apply: Callable[[], None]) -> StepLoss: ...


class Executor(Protocol):
    """Runs the model on this layout."""

    def gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss: ...

    def outputs(self, batch: Batch) -> Tensor:
        """The logits [n, classes], without features."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a method gives to the trainer; every slot is empty by default. `task_weight`: of the cross-entropy; several multiply.

    `repeats`: copies of each example in a step, augmented apart; the step has as many examples as without.
    `card`: what is written beside the exported weights, in config.json, found before `export` changes the model.
    `held`: what the plan's memory counts besides the model, given the number of ranks among which weights lie in parts.
    """

    model: tuple[ModelTransform, ...] = ()
    first_weights: tuple[FirstWeights, ...] = ()
    pixels: tuple[PixelTransform, ...] = ()
    batch: tuple[BatchTransform, ...] = ()
    loss: tuple[LossTerm, ...] = ()
    gradient: tuple[GradientTransform, ...] = ()
    update: Update | None = None
    controls: tuple[Control, ...] = ()
    after_step: tuple[AfterStep, ...] = ()
    evaluation: tuple[View, ...] = ()
    decisions: tuple[Decision, ...] = ()
    guards: tuple[Guard, ...] = ()
    export: tuple[Callable[[Module], Module], ...] = ()
    card: tuple[Callable[[Module], Mapping[str, Any]], ...] = ()
    captures: tuple[Capture, ...] = ()
    held: tuple[Callable[[int], Held], ...] = ()
    label_smoothing: float = 0.0
    task_weight: float = 1.0
    repeats: int = 1
    state: Mapping[str, Stateful] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[Parts], names: Sequence[str] = ()) -> Parts:
        """All slots of all `parts`, those with stages in the order of the stages. `names`: the setting that gives each.

        Raises ValueError, with both names, where two fill one single slot.
        """
        parts = list(parts)
        names = names or [f"method {number}" for number in range(1, len(parts) + 1)]
        joined: dict[str, Any] = {}
        for slot in fields(cls):
            values = [getattr(part, slot.name) for part in parts]
            if slot.name == "update":
                joined["update"] = _only(values, names, "take the optimizer step")
            elif slot.name == "task_weight":
                joined["task_weight"] = math.prod(values)
            elif slot.name == "label_smoothing":
                joined["label_smoothing"] = _only(values, names, "smooth the targets") or 0.0
            elif slot.name == "repeats":
                several = [value if value > 1 else 0 for value in values]
                joined["repeats"] = _only(several, names, "repeat the examples of a step") or 1
            elif slot.name == "state":
                joined["state"] = _united(values, names)
            else:
                flat = [item for value in values for item in value]
                joined[slot.name] = tuple(sorted(flat, key=lambda item: getattr(item, "stage", 0)))
        for what in ("weights", "statistics"):
            views = [any(view.replaces == what for view in part.evaluation) for part in parts]
            _only(views, names, f"give other {what} to evaluate")
        joined["evaluation"] = tuple(sorted(joined["evaluation"], key=lambda view: view.replaces != "weights"))
        return cls(**joined)


class Method(Protocol):
    """A choice of a method group: a frozen dataclass of typed knobs.

    One that cannot do with every other has `check_with(parts)`, which is given the parts of all and raises ConfigError.
    """

    @property
    def needs(self) -> frozenset[Need]: ...

    def build(self, context: Context) -> Parts: ...


def _only(values: Sequence[Any], names: Sequence[str], does: str) -> Any:
    """The one of `values` that is set, or None. Raises ValueError where several are: their methods all do what `does` says."""
    found = [(name, value) for name, value in zip(names, values, strict=True) if value]
    if len(found) > 1:
        raise ValueError(f"{' and '.join(name for name, _ in found)} both {does}; keep one of them")
    return found[0][1] if found else None


def _united(states: Sequence[Mapping[str, Stateful]], names: Sequence[str]) -> dict[str, Stateful]:
    united: dict[str, Stateful] = {}
    owners: dict[str, str] = {}
    for owner, state in zip(names, states, strict=True):
        for name, stateful in state.items():
            if name in united:
                raise ValueError(f"{owners[name]} and {owner} both keep a state named {name!r}; keep one of them")
            united[name], owners[name] = stateful, owner
    return united
