"""TODO"""

from __future__ import annotations

from dataclasses import dataclass, field

from dnntrain.input.source import DataSet
from dnntrain.protocols import BuildCache
from dnntrain.utils.rng import Index


@dataclass(frozen=True)
class PreparedData:
    """The data of a run: the set, the numbers of the examples that train, validate and test, and what methods have loaded besides."""

    dataset: DataSet
    train: Index
    val: Index
    test: Index
    cache: BuildCache = field(default_factory=BuildCache)
