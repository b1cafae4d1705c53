"""The form of the inputs and targets of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The value of a mask's pixel that does not count: in no loss and in no metric.
IGNORED = 255


class DataFeature(Enum):
    """A property of a data set that a method may list in `Method.needs`."""

    IMAGES = "images as inputs"


class InputKind(Enum):
    """The kind of a data set's inputs, which a model must support."""

    IMAGES = "images"
    TABLE = "rows of a table"


class TargetKind(Enum):
    """The form of an example's target, as its data set states it."""

    CLASS = "one class for each example"
    LABELS = "any number of labels for each example"
    NUMBERS = "one or several numbers for each example"
    MASK = "one class for each pixel"

    @property
    def noun(self) -> str:
        """The noun for the names of such targets."""
        return {TargetKind.LABELS: "label", TargetKind.NUMBERS: "target"}.get(self, "class")


class OutputKind(Enum):
    """The form of a model's output, which a task needs and a model must support."""

    VECTOR = "one row of outputs for each example"
    MAP = "outputs for each pixel"


class ColumnKind(Enum):
    """The kind of a column of a table."""

    NUMBER = "number"
    CATEGORY = "category"
    IS_MISSING = "missing"


@dataclass(frozen=True)
class Column:
    """A column of a table as a model reads it.

    A number is standardized; a missing one is 0. A category is its place in `categories` from 1 on; a
    missing or unknown one is 0. A column of the kind IS_MISSING is 1 if the number of the same name is
    missing, else 0.
    """

    name: str
    kind: ColumnKind
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputSpec:
    """The form of one example's input.

    shape      (channels, height, width) of an image, (columns,) of a row of a table
    mean, std  per channel, of values in [0, 1], or per column: a model gets (value - mean) / std
    columns    the columns of a row; empty for an image
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[Column, ...] = ()

    @property
    def kind(self) -> InputKind:
        return InputKind.TABLE if self.columns else InputKind.IMAGES

    @property
    def name(self) -> str:
        """Name of the input in exported files."""
        return "rows" if self.columns else "images"

    @property
    def bytes_per_value(self) -> int:
        """Bytes of a value in memory: pixels are uint8, numbers of a row float32."""
        return 4 if self.columns else 1

    def describe(self) -> str:
        """Return `1×8×8 pixels`, or `8 numbers and 2 categories`."""
        if not self.columns:
            return f"{'×'.join(map(str, self.shape))} pixels"
        counts = [(kind, len(self.list_columns(kind))) for kind in (ColumnKind.NUMBER, ColumnKind.CATEGORY)]
        nouns = {ColumnKind.NUMBER: ("number", "numbers"), ColumnKind.CATEGORY: ("category", "categories")}
        return " and ".join(f"{count} {nouns[kind][count != 1]}" for kind, count in counts if count)

    def list_columns(self, kind: ColumnKind) -> list[Column]:
        """Return the columns of this kind, in order."""
        return [column for column in self.columns if column.kind is kind]


@dataclass(frozen=True)
class TargetSpec:
    """The form of one example's target.

    names      names of the values of a target: the class names, in order
    kind       kind of the target
    mean, std  of each number of a target; a batch has (number - mean) / std. Empty for other kinds
    """

    names: tuple[str, ...]
    kind: TargetKind = TargetKind.CLASS
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def describe(self) -> str:
        """Return `10 classes`, or the names of a few numbers."""
        if self.kind is TargetKind.NUMBERS and len(self.names) <= 4:
            return f"target {', '.join(self.names)}"
        noun = self.kind.noun
        plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
        return f"{len(self.names)} {noun if len(self.names) == 1 else plural}"
