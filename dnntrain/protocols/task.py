"""A task: what a run learns and is judged by. It owns targets, outputs, the loss and the metrics; nothing else names them.

A task of your own is one module `task/NAME.py` with a subclass of `Task`, and `conf/task/NAME.yaml`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from dnntrain.errors import ConfigError
from dnntrain.protocols.choice import Choice
from dnntrain.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.protocols.step import Batch


class TaskFeature(Enum):
    """A property of a task that a method may need; a method names it in `needs`, beside what it needs of the layout."""

    CLASS_LOGITS = "outputs that are logits over classes"
    MIXABLE_TARGETS = "targets that can be mixed with those of another example"
    SMOOTHABLE_TARGETS = "targets that can be smoothed"


class TargetKind(Enum):
    """The form of an example's target, as its data set states it."""

    CLASS = "one class for each example"

    @property
    def noun(self) -> str:
        """The things that the names of a target are of."""
        return {TargetKind.CLASS: "classes"}[self]


@dataclass(frozen=True)
class InputSpec:
    """The form of one example's input.

    shape      (channels, height, width)
    mean, std  per channel, of values in [0, 1]: a model gets (value - mean) / std
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def describe(self) -> str:
        """Return `1×8×8 pixels`."""
        return f"{'×'.join(map(str, self.shape))} pixels"


@dataclass(frozen=True)
class TargetSpec:
    """The form of one example's target: its `kind`, and the `names` that it is told by (those of the classes, in order)."""

    names: tuple[str, ...]
    kind: TargetKind = TargetKind.CLASS

    def describe(self) -> str:
        """Return `10 classes`."""
        return f"{len(self.names)} {self.kind.noun}"


@dataclass(frozen=True)
class OutputSpec:
    """The form of the model's output for one example.

    names  of the entries along its first axis
    shape  without the batch: `(classes,)` for logits over classes
    name   of the output in exported files
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    name: str

    @property
    def size(self) -> int:
        """Entries along the first axis: the outputs of the model's last layer."""
        return self.shape[0]


@dataclass(frozen=True)
class ModelSpec:
    """All that a model's users must know besides its weights: what it takes, what it was trained on, what it gives."""

    inputs: InputSpec
    targets: TargetSpec
    output: OutputSpec


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is read. `unit` is "%" for a share, which people see in percent; else a unit of the target, or empty."""

    name: str
    higher_is_better: bool = False
    unit: str = ""

    @property
    def sign(self) -> float:
        """The factor with which more is better."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def is_share(self) -> bool:
        """True if values lie in [0, 1] and people see them in percent."""
        return self.unit == "%"

    def is_better(self, value: float, best: float) -> bool:
        """True if `value` beats `best`; any number beats NaN."""
        return not math.isnan(value) and (math.isnan(best) or self.sign * value > self.sign * best)

    def compute_drop(self, value: float, source: float) -> float:
        """Return how much worse `value` is than `source`: of a share the difference, else the part of the source's value."""
        difference = self.sign * (source - value)
        return difference if self.is_share else difference / max(abs(source), 1e-30)


#: The mean of the task's loss. Every task has it.
LOSS = MetricInfo("loss")


@dataclass(frozen=True, kw_only=True)
class Metric(MetricInfo):
    """A metric as a function of sums over examples, so that it is exact for any number of batches and ranks.

    sums   `(outputs, batch) → [width]`, summed over all batches and ranks
    value  `sums → value`
    """

    sums: Callable[[Tensor, Batch], Tensor]
    value: Callable[[Sequence[float]], float]
    width: int = 1


@dataclass(frozen=True)
class Predictions:
    """The outputs of n examples, on the host.

    values   [n, …] what `Task.predict` made of the outputs
    targets  [n, …]
    index    int64 [n], the number of each example in its source
    """

    values: Tensor
    targets: Tensor
    index: Tensor


#: What a person sees of the example with a number: its `name` and, if it is an image, a small picture `image` (PNG in base64).
DescribeExample = Callable[[int], Mapping[str, Any]]


class Task(Choice, ABC):
    """A choice of the group `task`: a frozen dataclass of typed knobs, without state.

    metric     the knob that names the task's usual metric; `eval.metric` follows it unless it is set
    features   properties that methods may need
    agreement  a phrase for `agrees`: "same class"
    """

    metric: str
    features: ClassVar[frozenset[TaskFeature]] = frozenset()
    agreement: ClassVar[str] = "same output"

    @abstractmethod
    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        """Return the form of the output for data of this form. Raises ConfigError if the targets are of another kind."""

    @abstractmethod
    def list_metrics(self) -> tuple[Metric, ...]:
        """Return the metrics besides the loss, the most telling first."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of each example, float [n]: the sum over its parts (pixels, tokens), if it has several.

        `label_smoothing` is zero unless the task has SMOOTHABLE_TARGETS.
        """

    def loss_sum(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Return the scalar sum of `loss`; a task may have a fused operation for it."""
        return self.loss(outputs, batch, label_smoothing).sum()

    def loss_weight(self, examples: int, spec: ModelSpec) -> int:
        """Return the number that the summed loss of `examples` examples is divided by, from all ranks and micro-batches.

        By default their number. It is known before the step, so that ranks need not communicate: a task whose loss is a sum
        over pixels or tokens counts those of an example of this `spec`.
        """
        return examples

    def make_spec(self, inputs: InputSpec, targets: TargetSpec) -> ModelSpec:
        """Return the specification of a model for data of this form."""
        return ModelSpec(inputs, targets, self.build(inputs, targets))

    def list_infos(self) -> tuple[MetricInfo, ...]:
        """Return how every metric is read, the loss included."""
        return (
            LOSS,
            *(MetricInfo(metric.name, metric.higher_is_better, metric.unit) for metric in self.list_metrics()),
        )

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Return what is kept of the outputs [n, …] of a batch for `summarize`."""

    @abstractmethod
    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return evaluation.json without its split: `examples`, each metric by name, and what the report shows besides."""

    @abstractmethod
    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield one row of `dnntrain predict` for each example of the outputs [n, …]; `top` candidates if there are several."""

    @abstractmethod
    def agrees(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Return bool [n]: for which examples two models' outputs mean the same. An exact export must agree with its source."""


def find_metric(name: str, infos: Sequence[MetricInfo], key: str) -> MetricInfo:
    """Return the metric called `name`. Raises ConfigError, naming the setting `key` and the nearest metric, if there is none."""
    for info in infos:
        if info.name == name:
            return info
    names = [info.name for info in infos]
    raise ConfigError(f"{key}={name}: the task has no such metric; {did_you_mean(name, names)}")
