"""Hold the data of a run and its splits."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.input.source import DataSet
from dnntrain.protocols import ModelSpec
from dnntrain.utils.rng import Index


@dataclass(frozen=True)
class PreparedData:
    """The data set of a run, the ModelSpec for it, and the indices of its splits."""

    dataset: DataSet
    spec: ModelSpec
    train: Index
    val: Index
    test: Index

    @property
    def splits(self) -> dict[str, Index]:
        """The indices of each split by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}
