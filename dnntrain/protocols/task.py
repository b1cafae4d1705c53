"""The interface of a task: targets, outputs, loss and metrics.

To add a task, write a subclass of `Task` in `choices/task/NAME.py`, and `conf/task/NAME.yaml`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from dnntrain.protocols.choice import Choice
from dnntrain.protocols.data_spec import InputSpec, OutputKind, TargetKind, TargetSpec
from dnntrain.protocols.metric import LOSS, Metric, MetricInfo, RowMetric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from dnntrain.protocols.step import Batch


class TaskFeature(Enum):
    """A property of a task that a method may list in `Method.needs`."""

    CLASS_LOGITS = "outputs that are logits over classes"
    SOFTMAX_LOGITS = "logits over classes, of examples, pixels or tokens"
    MIXABLE_TARGETS = "targets that can be mixed with the targets of another example"
    SMOOTHABLE_TARGETS = "targets that can be smoothed"
    PASTABLE_TARGETS = "targets that can be mixed, or pasted with a part of the image"


@dataclass(frozen=True)
class OutputSpec:
    """The form of the model's output for one example.

    names      names of the entries along the axis of the values
    shape      shape without the batch axis: `(classes,)` for logits over classes, `(classes, height,
               width)` for those of each pixel, `(length, vocabulary)` for those of each token
    name       name of the output in exported files
    mean, std  for each entry of `names`: an exported model gives value * std + mean, in the units of the
               target; empty if it gives the values of the network
    axis       the axis of `shape` with the values of the last layer
    threshold  probability from which a label is predicted, if validation chose it
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    axis: int = 0
    threshold: float | None = None

    @property
    def size(self) -> int:
        """Number of outputs of the last layer for an example, or for a token."""
        return self.shape[self.axis]


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a model: inputs, training targets and outputs."""

    inputs: InputSpec
    targets: TargetSpec
    output: OutputSpec


@dataclass(frozen=True)
class Predictions:
    """The outputs of n examples, on the host.

    values   [n, …], results of `Task.predict`
    targets  [n, …]
    index    int64 [n], the number of each example in its source
    """

    values: Tensor
    targets: Tensor
    index: Tensor


#: Returns the display of the example with a number: its `name` and, if it is an image, a thumbnail `image`
#: (PNG in base64).
DescribeExample = Callable[[int], Mapping[str, Any]]


class Task(Choice, ABC):
    """A choice of the group `task`: a frozen dataclass without state.

    metric     option that names the default metric of the task, which `eval.metric` follows
    optional_metrics  metrics that `task.metrics=[NAME]` adds
    features   properties that methods may need
    agreement  phrase for `agrees`: "same class"
    target_kind    kind of the targets, which data with several kinds give; None: the data decide
    output_kind    form of the model's output
    counts_targets  whether the divisor of the loss depends on the targets (see `count_targets`)
    place_options  options that may name a file of the training, as a literal: exports leave them out
    measures_targets  whether `fit` reads the training targets
    """

    metric: str
    target_kind: ClassVar[TargetKind | None] = None
    output_kind: ClassVar[OutputKind] = OutputKind.VECTOR
    counts_targets: ClassVar[bool] = False
    features: ClassVar[frozenset[TaskFeature]] = frozenset()
    optional_metrics: ClassVar[tuple[str, ...]] = ()
    agreement: ClassVar[str] = "same output"
    measures_targets: ClassVar[bool] = True
    place_options: ClassVar[tuple[str, ...]] = ()

    def check_files(self) -> None:
        """Raise ConfigError if a file that the training reads is missing. A trained model needs none of them."""
        return

    @abstractmethod
    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        """Return the form of the output for data of this form.

        Raises ConfigError if the task does not support the kind of the targets.
        """

    @property
    def balancing_hint(self) -> str:
        """The settings that count rare classes as much as frequent ones; empty if they do so already."""
        return ""

    @abstractmethod
    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        """Return the metrics besides the loss, the most informative first.

        Without `spec`, only their names, directions and units are read.
        """

    @abstractmethod
    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of each example, float [n].

        It is the sum over pixels or tokens, if any.

        `label_smoothing` is zero unless the task has SMOOTHABLE_TARGETS.
        """

    def loss_sum(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Return the scalar sum of `compute_losses`; a task may override it with a fused operation."""
        return self.compute_losses(outputs, batch, label_smoothing).sum()

    def fit(self, spec: ModelSpec, targets: NDArray[Any]) -> Task:
        """Return the task whose loss trains, with constants measured on the training `targets` [n, …].

        By default it is this one. Evaluations compute the loss of the unfitted task.
        """
        return self

    @property
    def calibrates(self) -> bool:
        """Whether `calibrate` is called with predictions of the validation split when training is done."""
        return False

    def calibrate(self, predictions: Predictions, spec: ModelSpec) -> ModelSpec:
        """Return the specification with constants of the output that follow from validation predictions."""
        return spec

    def list_row_metrics(self, spec: ModelSpec | None = None) -> tuple[RowMetric, ...]:
        """Return the metrics that need every example at once, after those of `list_metrics`."""
        return ()

    def loss_weight(self, examples: int, spec: ModelSpec) -> int:
        """Return the divisor of the summed loss of all ranks and micro-batches.

        By default it is `examples` times `get_units`. It is known before the step, so that ranks
        need not communicate. A task with `counts_targets` counts the targets of the step instead.
        """
        return examples * self.get_units(spec)

    def get_units(self, spec: ModelSpec) -> int:
        """Return the terms in the loss of an example: 1, or its pixels or tokens.

        Terms of methods have one value for each example, and are multiplied by this number.
        """
        return 1

    def count_targets(self, batch: Batch, spec: ModelSpec) -> Tensor:
        """Return the part of the divisor that `batch` gives, an int64 scalar.

        By default it is that of `loss_weight`. A task with `counts_targets` returns the number of
        targets that its loss counts, such as pixels; ranks sum it before each backward pass.
        """
        import torch

        return torch.full((), self.loss_weight(len(batch), spec), dtype=torch.int64, device=batch.targets.device)

    def make_spec(self, inputs: InputSpec, targets: TargetSpec) -> ModelSpec:
        """Return the specification of a model for data of this form."""
        return ModelSpec(inputs, targets, self.build(inputs, targets))

    def list_infos(self) -> tuple[MetricInfo, ...]:
        """Return the description of every metric, the loss first."""
        metrics = (*self.list_metrics(), *self.list_row_metrics())
        return (LOSS, *(MetricInfo(metric.name, metric.higher_is_better, metric.unit) for metric in metrics))

    def reduce_outputs(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the outputs of `batch` in the form that loss, metrics and `predict` read in an evaluation."""
        return outputs.float()

    def make_samples(self, model: nn.Module, spec: ModelSpec, device: str) -> Mapping[str, Any]:
        """Return further content of evaluation.json that the trained model generates; empty by default."""
        return {}

    def write_sample(self, model: nn.Module, spec: ModelSpec, device: str) -> str:
        """Return a text that the model generates at an evaluation, for the report; empty by default."""
        return ""

    def predict(self, outputs: Tensor) -> Tensor:
        """Reduce the outputs [n, …] of a batch to the values that `summarize` needs."""
        return outputs.float()

    def predict_batch(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Reduce the outputs of `batch`; override it if the values need the targets."""
        return self.predict(outputs)

    def get_threshold(self, spec: ModelSpec | None) -> float:
        """Return the probability from which a label is predicted."""
        return 0.5

    def compute_probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return the probabilities of classes or labels [n, …] in the outputs [n, …]; None if the task has none."""
        return None

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return the content of evaluation.json without its split.

        It has `examples`, each metric by name, and the further values that the report shows. By
        default it has the loss and the metrics of outputs that `predict` keeps as they are.
        """
        from dnntrain.protocols.step import Batch

        count, index = len(predictions.targets), predictions.index.numpy()
        batch = Batch(predictions.values, predictions.targets, index, index)
        loss = float(self.loss_sum(predictions.values, batch)) / max(1, int(self.count_targets(batch, spec)))
        metrics = {
            metric.name: metric.value(metric.sums(predictions.values, batch).tolist())
            for metric in self.list_metrics(spec)
        }
        for row_metric in self.list_row_metrics(spec):
            metrics[row_metric.name] = row_metric.value(row_metric.rows(predictions.values, batch).double().numpy())
        return {"examples": count, "loss": loss, **metrics}

    @abstractmethod
    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield one row of `dnntrain predict` for each example of the outputs [n, …].

        A row lists at most `top` candidates if the task has candidates.
        """

    def make_masks(self, outputs: Tensor) -> Tensor | None:
        """Return the class of each pixel, [n, height, width], for a task of pixels; else None."""
        return None

    @abstractmethod
    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        """Return bool [n]: whether two models' outputs mean the same, for models of `spec`.

        An exact export must agree with its source model.
        """
