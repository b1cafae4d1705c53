"""The data of a run, divided into its parts."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.input.source import DataSet
from dnntrain.protocols import ModelSpec
from dnntrain.utils.rng import Index


@dataclass(frozen=True)
class PreparedData:
    """Hold the data of a run: the set, the form of a model for it, and the numbers of the examples that train, validate and test."""

    dataset: DataSet
    spec: ModelSpec
    train: Index
    val: Index
    test: Index
