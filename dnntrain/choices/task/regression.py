"""Regression: each example has one or several numbers, and the model gives an estimate of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dnntrain.config.fields import Annotated, Literal, Positive, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    Batch,
    DescribeExample,
    InputSpec,
    Metric,
    ModelSpec,
    OutputSpec,
    Predictions,
    TargetKind,
    TargetSpec,
    Task,
    TaskFeature,
)

if TYPE_CHECKING:
    from torch import Tensor

#: Two outputs agree if they differ by less than this part of the target's deviation.
_TOLERANCE = 1e-3

#: Points of the scatter plot of the report, for each target.
_MAX_POINTS = 400


@dataclass(frozen=True)
class Regression(Task):
    """A loss of the error in deviations of the target; metrics in the units of the target.

    The network estimates z = (target - mean) / deviation, with mean and deviation of the training
    examples. With the error e = z - output the loss of an example is the mean over its targets of

        mse       e²
        mae       |e|
        huber     e² / 2 if |e| <= delta, else delta (|e| - delta / 2)
        quantile  q e if e > 0, else (q - 1) e     (pinball loss; Koenker and Bassett, 1978)

    Exported models give estimates in the units of the target.
    """

    metric: Literal["rmse", "mae", "r2", "loss"] = "rmse"  # default metric of the task; eval.metric follows it
    loss: Literal["mse", "mae", "huber", "quantile"] = "mse"  # loss
    delta: Positive = 1.0  # error from which the Huber loss is linear, in deviations of the target
    quantile: Annotated[float, Range(above=0, below=1)] = 0.5  # quantile of the target that loss=quantile estimates

    target_kind: ClassVar[TargetKind | None] = TargetKind.NUMBERS
    features: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.MIXABLE_TARGETS, TaskFeature.PASTABLE_TARGETS})
    agreement: ClassVar[str] = "same estimate within 0.1 % of the target's deviation"

    def __post_init__(self) -> None:
        for option, default, loss in (("delta", 1.0, "huber"), ("quantile", 0.5, "quantile")):
            if vars(self)[option] != default and self.loss != loss:
                raise ValueError(
                    f"{option}={vars(self)[option]:g} has no effect with loss={self.loss}; use loss={loss}"
                )

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        if targets.kind is not TargetKind.NUMBERS:
            raise ConfigError(
                f"task=regression needs {TargetKind.NUMBERS.value}; the data have {targets.kind.value}",
                "choose other data, or the task for these data: task=classification",
            )
        return OutputSpec(targets.names, (len(targets.names),), "estimates", targets.mean, targets.std)

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        """Return RMSE and MAE in the units of the target, each the mean over targets, and R².

        Sums are those of |e|, e², z and z² of each target, and the number of examples.
        """
        stds = (1.0,) if spec is None else spec.targets.std
        width = 4 * len(stds) + 1

        def make_value(compute: Callable[[Sequence[float], int], float]) -> Callable[[Sequence[float]], float]:
            def value(sums: Sequence[float]) -> float:
                return (
                    math.fsum(compute(sums, target) for target in range(len(stds))) / len(stds)
                    if sums[-1]
                    else math.nan
                )

            return value

        def compute_rmse(sums: Sequence[float], target: int) -> float:
            return stds[target] * math.sqrt(sums[4 * target + 1] / sums[-1])

        def compute_mae(sums: Sequence[float], target: int) -> float:
            return stds[target] * sums[4 * target] / sums[-1]

        return (
            Metric("rmse", sums=sum_errors, value=make_value(compute_rmse), width=width),
            Metric("mae", sums=sum_errors, value=make_value(compute_mae), width=width),
            Metric("r2", higher_is_better=True, sums=sum_errors, value=make_value(compute_r2), width=width),
        )

    def compute_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        import torch  # here, because settings are checked before torch is imported
        from torch.nn.functional import huber_loss

        error = batch.targets - outputs.float()
        if self.loss == "mse":
            losses = error.square()
        elif self.loss == "mae":
            losses = error.abs()
        elif self.loss == "huber":
            losses = huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)
        else:
            losses = torch.maximum(self.quantile * error, (self.quantile - 1) * error)
        return losses.mean(1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the standardized estimates, float [n, targets]."""
        return outputs.float()

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return loss and metrics, the estimates beside the targets, and the largest errors.

        "points" has [target, estimate] of up to 400 examples for each target, evenly spaced in the
        split; "worst" lists up to `max_samples` examples, the largest error in deviations first.
        """
        batch = Batch(predictions.values, predictions.targets, predictions.index.numpy(), predictions.index.numpy())
        sums = sum_errors(predictions.values.double(), batch).tolist()
        estimates, targets = (
            restore_units(values, spec.targets) for values in (predictions.values, predictions.targets)
        )
        worst = (predictions.values - predictions.targets).abs().amax(1).argsort(descending=True)[:max_samples].tolist()
        rows = sorted({round(row * (len(targets) - 1) / (_MAX_POINTS - 1)) for row in range(_MAX_POINTS)})
        rows = list(range(len(targets))) if len(targets) <= _MAX_POINTS else rows
        return {
            "examples": len(targets),
            "loss": float(self.compute_losses(predictions.values.double(), batch).mean()),
            **{metric.name: metric.value(sums) for metric in self.list_metrics(spec)},
            "target_names": list(spec.targets.names),
            "points": [
                [[_round(targets[row, target]), _round(estimates[row, target])] for row in rows]
                for target in range(len(spec.targets.names))
            ],
            "worst": [
                {
                    **describe(int(predictions.index[row])),
                    "targets": [_round(value) for value in targets[row]],
                    "estimates": [_round(value) for value in estimates[row]],
                }
                for row in worst
            ],
        }

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield the estimate of each target by its name, in its units."""
        for row in restore_units(outputs.cpu(), spec.targets).tolist():
            yield {name: _round(value) for name, value in zip(spec.targets.names, row, strict=True)}

    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        return ((outputs - expected).abs() < _TOLERANCE).all(1)


def sum_errors(outputs: Tensor, batch: Batch) -> Tensor:
    """Return float64 [4 targets + 1]: sums of |e|, e², z and z² of each target, and the examples."""
    import torch

    targets = batch.targets.double()
    error = targets - outputs.double()
    sums = torch.stack([error.abs(), error.square(), targets, targets.square()], dim=2).sum(0).flatten()
    return torch.cat([sums, sums.new_full((1,), len(batch))])


def compute_r2(sums: Sequence[float], target: int) -> float:
    """Return 1 - sum of e² / sum of (z - mean of z)² of a target; NaN if the targets are equal."""
    squared_error, total, squares = sums[4 * target + 1 : 4 * target + 4]
    variance = squares - total * total / sums[-1]
    return 1 - squared_error / variance if variance > 1e-12 * max(squares, 1e-30) else math.nan


def restore_units(values: Tensor, targets: TargetSpec) -> Tensor:
    """Return standardized values [n, targets] in the units of the targets, float64."""
    import torch

    std, mean = (torch.tensor(numbers, dtype=torch.float64) for numbers in (targets.std, targets.mean))
    return values.double() * std + mean


def _round(value: Any) -> float:
    """Return a number with seven digits, the precision of float32."""
    return float(f"{float(value):.7g}")
