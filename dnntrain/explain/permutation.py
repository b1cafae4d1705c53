"""Measure the importance of a table's columns: shuffle one, and see how the loss rises.

The rise is measured example by example over several keyed shuffles (Breiman, "Random forests", 2001;
Fisher, Rudin & Dominici, JMLR 2019). A number and the mark that it is missing are shuffled together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnntrain.explain.statistics import Interval, compute_interval
from dnntrain.explain.subject import Subject
from dnntrain.protocols import Batch, InputSpec
from dnntrain.utils.rng import Key

#: Shuffles of each column, and examples.
SHUFFLES = 5
EXAMPLES = 1000


@dataclass(frozen=True)
class Importance:
    """How the loss rises if a column is shuffled; the interval is over examples."""

    name: str
    rise: Interval

    @property
    def is_trusted(self) -> bool:
        """Whether the loss certainly rises."""
        return self.rise.low > 0

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"column": self.name, **self.rise.as_json(), "trusted": self.is_trusted}


def group_columns(inputs: InputSpec) -> dict[str, list[int]]:
    """Return the places of the columns of each name."""
    groups: dict[str, list[int]] = {}
    for place, column in enumerate(inputs.columns):
        groups.setdefault(column.name, []).append(place)
    return groups


def measure_importance(subject: Subject, batch: Batch, key: Key) -> list[Importance]:
    """Return the importance of each column, the largest first."""
    task, loaded = subject.loaded.config.task, subject.loaded

    def compute_losses(inputs: Tensor) -> Tensor:
        outputs = torch.cat([loaded.compute_outputs(part) for part in torch.split(inputs, 1024)])
        return task.compute_losses(outputs.float(), batch).double().cpu()

    exact = compute_losses(batch.inputs)
    results = []
    for name, places in group_columns(loaded.spec.inputs).items():
        rises = torch.zeros_like(exact)
        for shuffle in range(SHUFFLES):
            order = key.with_stream(f"explain.column.{name}").with_epoch(shuffle)
            rows = torch.from_numpy(order.permutation(np.arange(len(batch.inputs)))).to(batch.inputs.device)
            inputs = batch.inputs.clone()
            inputs[:, places] = batch.inputs[rows][:, places]
            rises += (compute_losses(inputs) - exact) / SHUFFLES
        results.append(Importance(name, compute_interval(rises)))
    return sorted(results, key=lambda item: -item.rise.mean)
