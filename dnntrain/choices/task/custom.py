"""Another task with your own loss and metrics, in a Python file, which is run as code.

def hinge(outputs, targets, margin: float = 1.0):      # tensors [n, classes], [n] → [n]
    ...

def worst_recall(outputs, targets):                    # tensors of all examples → a number
    ...

dnntrain task=custom task.file=mine.py task.loss=hinge task.args.margin=2 task.metrics=[worst_recall]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from dnntrain.config.fields import Arguments, Literal
from dnntrain.protocols import (
    Batch,
    DescribeExample,
    InputSpec,
    Metric,
    ModelSpec,
    OutputSpec,
    Predictions,
    RowMetric,
    TargetKind,
    TargetSpec,
    Task,
    TaskFeature,
)
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.user_code import make_result_error
from dnntrain.utils.user_objects import load_function

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class CustomTask(Task):
    """The task `base` with the loss and the metrics of your file.

    The loss gets the outputs of the network and the targets of a batch, and returns the loss of each
    example, [n]. A metric gets those of all examples of an evaluation, and returns a number. Targets
    are class numbers, labels of 0 and 1, or standardized numbers.
    """

    base: Literal["classification", "multilabel", "regression"] = (
        "classification"  # the task whose targets, predictions and report it has
    )
    base_args: Arguments = Arguments()  # options of that task, as task.base_args.threshold=0.3
    metric: str = "accuracy"  # default metric of the task: one of the base, of metrics, or loss; eval.metric follows it
    file: str | None = None  # path of a Python file, which is run
    loss: str | None = (
        None  # name of a function or class in the file: (outputs, targets) -> [n]; null: the loss of the base
    )
    args: Arguments = Arguments()  # further arguments of the loss, as task.args.margin=2
    metrics: tuple[str, ...] = ()  # names of functions in the file: (outputs, targets) -> number, of all examples
    minimize: tuple[str, ...] = ()  # those of metrics of which less is better

    def __post_init__(self) -> None:
        if self.file is None or not (self.loss or self.metrics):
            raise ValueError("task=custom needs file, and loss or metrics: task.file=mine.py task.loss=NAME")
        if self.args.values and not self.loss:
            raise ValueError("args has no effect without loss")
        for name in self.minimize:
            if name not in self.metrics:
                raise ValueError(f"minimize={name} must be one of metrics; {did_you_mean(name, self.metrics)}")
        taken = {"loss", *(info.name for info in (*self._base.list_metrics(), *self._base.list_row_metrics()))}
        for name in self.metrics:
            if name in taken:
                raise ValueError(f"metrics={name}: the task {self.base} has a metric of this name; rename the function")

    @cached_property
    def _base(self) -> Task:
        from dnntrain.config.build_choice import decode_choice
        from dnntrain.errors import ConfigError

        try:
            base: Task = decode_choice("task", self.base, self.base_args.values)
        except ConfigError as error:
            raise ValueError(f"base_args: {error.message}") from None
        return base

    @cached_property
    def _loss(self) -> Callable[..., Any]:
        return load_function(self.file, "task", self.loss, self.args.values)

    @property
    def features(self) -> frozenset[TaskFeature]:  # type: ignore[override]
        """The features of the base; a loss of the user's gets the targets of the data alone."""
        changeable = {TaskFeature.MIXABLE_TARGETS, TaskFeature.SMOOTHABLE_TARGETS}
        return self._base.features - changeable if self.loss else self._base.features

    @property
    def agreement(self) -> str:  # type: ignore[override]
        return self._base.agreement

    @property
    def balancing_hint(self) -> str:
        return self._base.balancing_hint if self.loss is None else ""

    def check_files(self) -> None:
        self._base.check_files()

    def list_code_options(self) -> tuple[str, ...]:
        return ("file",)

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        return self._base.build(inputs, targets)

    @property
    def calibrates(self) -> bool:
        return self._base.calibrates

    def calibrate(self, predictions: Predictions, spec: ModelSpec) -> ModelSpec:
        return self._base.calibrate(replace(predictions, values=self._base.predict(predictions.values)), spec)

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        return self._base.list_metrics(spec)

    def list_row_metrics(self, spec: ModelSpec | None = None) -> tuple[RowMetric, ...]:
        """Return the metrics of the base, then those of the file, which is not run before a value is computed."""
        outputs = spec.output.size if spec else 1
        is_class = spec is None or spec.targets.kind is TargetKind.CLASS
        targets = 1 if is_class or spec is None else len(spec.targets.names)
        file_metrics = [
            RowMetric(
                name,
                higher_is_better=name not in self.minimize,
                rows=make_rows,
                value=partial(self._compute_metric, name, outputs, is_class),
                width=outputs + targets,
            )
            for name in self.metrics
        ]
        return (*self._base.list_row_metrics(spec), *file_metrics)

    def _compute_metric(self, name: str, outputs: int, is_class: bool, rows: NDArray[np.float64]) -> float:
        import torch

        function = load_function(self.file, "task", name, {})
        values, targets = (torch.from_numpy(part.copy()).float() for part in (rows[:, :outputs], rows[:, outputs:]))
        result = function(values, targets[:, 0].long() if is_class else targets)
        if isinstance(result, torch.Tensor) and result.numel() == 1:
            result = float(result)
        if isinstance(result, bool) or not isinstance(result, int | float):
            raise make_result_error(f"must return a number, not a value of type {type(result).__name__}", function)
        return float(result) if math.isfinite(result) else math.nan

    def fit(self, spec: ModelSpec, targets: NDArray[Any]) -> Task:
        fitted = self._base.fit(spec, targets)
        if self.loss is not None or fitted is self._base:
            return self
        task = replace(self)
        task.__dict__["_base"] = fitted
        return task

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        if self.loss is None:
            return self._base.compute_losses(outputs, batch, label_smoothing)
        losses: Tensor = self._loss(outputs.float(), batch.targets)
        if tuple(getattr(losses, "shape", (None,))) != (len(batch),):
            form = f"a tensor {list(losses.shape)}" if hasattr(losses, "shape") else f"a {type(losses).__name__}"
            raise make_result_error(
                f"must return the loss of each of the {len(batch)} examples, not {form}; leave the mean out", self._loss
            )
        return losses

    def loss_sum(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        if self.loss is None:
            return self._base.loss_sum(outputs, batch, label_smoothing)
        return super().loss_sum(outputs, batch, label_smoothing)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the outputs, which the loss and the metrics of the file get."""
        return outputs.float()

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return the content of the base, with the loss and the metrics of the file."""
        index = predictions.index.numpy()
        batch = Batch(predictions.values, predictions.targets, index, index)
        reduced = replace(predictions, values=self._base.predict(predictions.values))
        summary = self._base.summarize(reduced, spec, max_samples, describe)
        figures: dict[str, float] = {}
        if self.loss is not None:
            total = self.compute_losses(predictions.values, batch).double().sum()
            summary["loss"] = float(total) / self.loss_weight(len(batch), spec)
        for metric in self.list_row_metrics(spec):
            if metric.name in self.metrics:
                figures[metric.name] = metric.value(metric.rows(predictions.values, batch).double().numpy())
        names = {"examples", *(info.name for info in self._base.list_infos())}
        first = {name: value for name, value in summary.items() if name in names}
        return {**first, **figures, **{name: value for name, value in summary.items() if name not in figures}}

    def loss_weight(self, examples: int, spec: ModelSpec) -> int:
        return self._base.loss_weight(examples, spec)

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        return self._base.format_predictions(outputs, spec, top)

    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        return self._base.agrees(outputs, expected, spec)

    def get_threshold(self, spec: ModelSpec | None) -> float:
        return self._base.get_threshold(spec)

    def compute_probabilities(self, outputs: Tensor) -> Tensor | None:
        return self._base.compute_probabilities(outputs)


def make_rows(outputs: Tensor, batch: Batch) -> Tensor:
    """Return [n, outputs + targets]: the outputs of the network, then the targets."""
    import torch

    targets = batch.targets.double()
    return torch.cat([outputs.double(), targets[:, None] if targets.dim() == 1 else targets], dim=1)
