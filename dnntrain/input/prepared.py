"""TODO"""

from __future__ import annotations

from dataclasses import dataclass, field

from dnntrain.input.source import DataSet
from dnntrain.protocols import Once
from dnntrain.utils.rng import Index


@dataclass(frozen=True)
class Prepared:
    """The data of a run: the set, the numbers of the examples that train, validate and test, and what methods have loaded besides."""

    dataset: DataSet
    train: Index
    val: Index
    test: Index
    once: Once = field(default_factory=Once)
