"""The metrics of a task: names, directions, units and sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from dnntrain.protocols.step import Batch


@dataclass(frozen=True)
class MetricInfo:
    """The name of a metric and the meaning of its values.

    unit  "%" for a fraction, which is displayed in percent; else a unit of the target, or empty
    """

    name: str
    higher_is_better: bool = False
    unit: str = ""

    @property
    def sign(self) -> float:
        """The factor that makes larger values better: 1 or -1."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def is_share(self) -> bool:
        """True if values are in [0, 1] and are displayed in percent."""
        return self.unit == "%"

    def is_better(self, value: float, best: float) -> bool:
        """Return True if `value` is better than `best`; any number is better than NaN."""
        return not math.isnan(value) and (math.isnan(best) or self.sign * value > self.sign * best)

    def compute_drop(self, value: float, source: float) -> float:
        """Return how much worse `value` is than `source`.

        The drop is the difference for a fraction, and relative to `source` for other metrics.
        """
        difference = self.sign * (source - value)
        return difference if self.is_share else difference / max(abs(source), 1e-30)


#: The mean of the task's loss. Every task has it.
LOSS = MetricInfo("loss")


@dataclass(frozen=True, kw_only=True)
class Metric(MetricInfo):
    """A metric that is computed from sums over examples.

    It is therefore exact for any number of batches and ranks.

    sums   `(outputs, batch) → [width]`, summed over all batches and ranks
    value  `sums → value`
    """

    sums: Callable[[Tensor, Batch], Tensor]
    value: Callable[[Sequence[float]], float]
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class RowMetric(MetricInfo):
    """A metric that needs every example at once, such as an area under a curve.

    The rows of all ranks are joined in the order of the examples, so it is exact on every layout.

    rows   `(outputs, batch) → [n, width]`
    value  `rows → value`, with the rows of all examples, float64 [examples, width]
    """

    rows: Callable[[Tensor, Batch], Tensor]
    value: Callable[[NDArray[np.float64]], float]
    width: int


def find_metric(name: str, infos: Sequence[MetricInfo], key: str) -> MetricInfo:
    """Return the metric called `name`.

    Raises ConfigError, which names the setting `key` and the nearest metric, if none has this name.
    """
    for info in infos:
        if info.name == name:
            return info
    names = [info.name for info in infos]
    raise ConfigError(f"{key}={name}: the task does not have this metric; {did_you_mean(name, names)}")
