"""Hold the state of an explanation while its parts are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnntrain.explain.explanation import Explanation
from dnntrain.explain.map_share import MapShare
from dnntrain.explain.method import MapMethod
from dnntrain.explain.subject import Subject
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class ExplainOptions:
    """The options of the command.

    sets, files  the examples with maps; without both the sets that fit the task
    count        examples of each set
    against      another run or export to compare with
    directions   whether the loss is measured along the way of the checkpoints
    """

    sets: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    count: int = 8
    method: str = "auto"
    layer: str | None = None
    split: str = "test"
    against: Path | None = None
    directions: bool = False


@dataclass(frozen=True)
class Work:
    """Everything that a part reads, and the explanation that it fills.

    split   the explained examples, of those in `splits`
    method  of the maps; None for tables
    activation_bytes  outputs of all modules for one example
    other   the model of --against, with its name and its method
    checkpoints  of --directions, the first one first
    share   the ranks that make the maps
    """

    options: ExplainOptions
    overrides: Sequence[str]
    trust: bool
    say: Callable[[str], None]
    splits: dict[str, DataSplit]
    split: DataSplit
    key: Key
    method: MapMethod | None
    activation_bytes: float
    other: Subject | None
    other_name: str
    other_method: MapMethod
    explanation: Explanation
    checkpoints: Sequence[Path] = ()
    share: MapShare = field(default_factory=MapShare)

    @property
    def subject(self) -> Subject:
        return self.explanation.subject
