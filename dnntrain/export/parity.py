"""Compare an export with its source on real examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dnntrain.errors import CheckpointError
from dnntrain.export.formats import Runner
from dnntrain.protocols import Batch, Metric, ModelSpec, Task

#: The smallest share of examples for which an exact format must agree with its source.
MIN_AGREEMENT = 0.999


@dataclass(frozen=True)
class Parity:
    """The difference between an export and its source over `examples` examples of the split `part`.

    largest_error   of any output; `relative_error` is the same over the largest output of the source
    agreement       share of examples for which both outputs mean the same; the task defines the sense
    metric          name of the task's first metric; `value` is the export's, `source_value` its source's
    drop            how much worse the export is (see `MetricInfo.compute_drop`); negative if it is better
    """

    part: str
    examples: int
    largest_error: float
    relative_error: float
    agreement: float
    agreement_kind: str
    metric: str
    value: float
    source_value: float
    drop: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.agreement_kind} for {100 * self.agreement:.2f} % of {self.examples} {self.part} examples, "
            f"largest error {self.largest_error:.2g}, {self.metric} {self.value:.4f} (source {self.source_value:.4f})"
        )


@torch.no_grad()
def measure_parity(
    task: Task, spec: ModelSpec, part: str, batches: Iterable[Batch], source: Runner, export: Runner
) -> Parity:
    """Compare both on `batches`.

    Raises CheckpointError if the export's outputs are not finite or of another shape.
    """
    metric = task.list_metrics(spec)[0]
    error = scale = 0.0
    examples = agreements = 0
    sums, source_sums = [0.0] * metric.width, [0.0] * metric.width
    for batch in batches:
        expected, actual = source(batch.inputs).float().cpu(), export(batch.inputs).float().cpu()
        if actual.shape != expected.shape or not torch.isfinite(actual).all():
            raise CheckpointError(
                f"the export returns {tuple(actual.shape)}, its source {tuple(expected.shape)}, "
                "and all values must be finite",
                "use another format; please report it with `dnntrain doctor`",
            )
        error = max(error, float((expected - actual).abs().max()))
        scale = max(scale, float(expected.abs().max()))
        examples += len(batch)
        agreements += int(task.agrees(actual, expected, spec).sum())
        on_host = Batch(batch.inputs, batch.targets.cpu(), batch.index, batch.position)
        sums = _add_sums(sums, metric, actual, on_host)
        source_sums = _add_sums(source_sums, metric, expected, on_host)
    value, source_value = metric.value(sums), metric.value(source_sums)
    return Parity(
        part=part,
        examples=examples,
        largest_error=error,
        relative_error=error / max(scale, 1e-30),
        agreement=agreements / examples,
        agreement_kind=task.agreement,
        metric=metric.name,
        value=value,
        source_value=source_value,
        drop=metric.compute_drop(value, source_value),
    )


def _add_sums(sums: list[float], metric: Metric, outputs: torch.Tensor, batch: Batch) -> list[float]:
    return [total + part for total, part in zip(sums, metric.sums(outputs, batch).tolist(), strict=True)]
