"""The form of the inputs and targets of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: The value of a mask's pixel that does not count: in no loss and in no metric.
IGNORED = 255


class DataFeature(Enum):
    """A property of a data set that a method may list in `Method.needs`."""

    IMAGES = "images as inputs"


class InputKind(Enum):
    """The kind of a data set's inputs, which a model must support."""

    IMAGES = "images"
    TABLE = "rows of a table"
    TOKENS = "text"


class TargetKind(Enum):
    """The form of an example's target, as its data set states it."""

    CLASS = "one class for each example"
    LABELS = "any number of labels for each example"
    NUMBERS = "one or several numbers for each example"
    MASK = "one class for each pixel"
    TOKENS = "the next token at each position of a text"

    @property
    def noun(self) -> str:
        """The noun for the names of such targets."""
        nouns = {TargetKind.LABELS: "label", TargetKind.NUMBERS: "target", TargetKind.TOKENS: "token"}
        return nouns.get(self, "class")

    @property
    def plural(self) -> str:
        """The plural of `noun`."""
        return "classes" if self.noun == "class" else f"{self.noun}s"


class OutputKind(Enum):
    """The form of a model's output, which a task needs and a model must support."""

    VECTOR = "one row of outputs for each example"
    MAP = "outputs for each pixel"
    TOKENS = "outputs for each token"


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
class Vocabulary:
    """The tokens of a text, and how a text is cut into them.

    kind        "byte": the bytes of UTF-8; "char": characters; "bpe": bytes, and pairs of tokens that
                are merged (byte-pair encoding)
    characters  the characters of "char", in order
    merges      the pairs of "bpe", the first merge first; merge i makes token 256 + i
    separates   whether a token of its own begins each document
    """

    kind: str = "byte"
    characters: str = ""
    merges: tuple[tuple[int, int], ...] = ()
    separates: bool = False

    @property
    def size(self) -> int:
        """Number of tokens."""
        if self.kind == "char":
            return len(self.characters) + self.separates
        return 256 + len(self.merges)

    @property
    def separator(self) -> int | None:
        """The token that begins each document: byte 255, which UTF-8 never has, or the last one of characters."""
        if not self.separates:
            return None
        return len(self.characters) if self.kind == "char" else 255

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token in memory."""
        return 1 if self.size <= 2**8 else 2 if self.size <= 2**15 else 4

    def list_pieces(self) -> list[bytes]:
        """Return the bytes of each token; the separator has none."""
        if self.kind == "char":
            pieces = [character.encode("utf-8", "surrogatepass") for character in self.characters]
            return [*pieces, b""] if self.separates else pieces
        pieces = [bytes([value]) for value in range(256)]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        if self.separates:
            pieces[255] = b""
        return pieces


#: With a mean of so many deviations, float32 still stores 2048 steps within a deviation.
_MAX_MEAN_IN_STDS = 4096.0


@dataclass(frozen=True)
class InputSpec:
    """The form of one example's input.

    shape       (channels, height, width) of an image, (columns,) of a row of a table, (tokens,) of a text
    mean, std   per channel, of values in [0, 1], or per column: a model gets (value - mean) / std
    columns     the columns of a row; empty for an image
    vocabulary  the tokens of a text, which a model gets as int64 numbers; None for other inputs
    isolates_documents  whether a token of a text sees the tokens of its own document only
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[Column, ...] = ()
    vocabulary: Vocabulary | None = None
    isolates_documents: bool = False

    @property
    def kind(self) -> InputKind:
        if self.vocabulary is not None:
            return InputKind.TOKENS
        return InputKind.TABLE if self.columns else InputKind.IMAGES

    @property
    def name(self) -> str:
        """Name of the input in exported files."""
        return {InputKind.TOKENS: "tokens", InputKind.TABLE: "rows"}.get(self.kind, "images")

    @property
    def dtype_name(self) -> str:
        """Name of the number format in which a model gets the inputs."""
        return "float32" if self.vocabulary is None else "int64"

    @property
    def bytes_per_value(self) -> int:
        """Bytes of a value in memory: pixels are uint8, numbers of a row float32."""
        if self.vocabulary is not None:
            return self.vocabulary.bytes_per_token
        return 4 if self.columns else 1

    @property
    def offsets(self) -> tuple[float, ...]:
        """Return for each column the number that is subtracted in float64 before a row is stored as float32.

        It is the mean of numbers that differ little for their size, such as times in seconds since 1970,
        whose differences float32 would lose; else 0.
        """
        pairs = zip(self.mean, self.std, strict=True) if self.columns else ()
        return tuple(mean if abs(mean) > _MAX_MEAN_IN_STDS * std else 0.0 for mean, std in pairs)

    def make_zeros(self, count: int) -> Tensor:
        """Return `count` inputs of zeros, as a model gets them."""
        import torch

        return torch.zeros(count, *self.shape, dtype=torch.float32 if self.vocabulary is None else torch.int64)

    def describe(self) -> str:
        """Return `1×8×8 pixels`, `8 numbers and 2 categories`, or `64 tokens of 256`."""
        if self.vocabulary is not None:
            return f"{self.shape[0]} tokens of {self.vocabulary.size} ({self.vocabulary.kind})"
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

    names      names of the values of a target: the class names, in order; empty for tokens
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
        if self.kind is TargetKind.TOKENS:
            return "next tokens"
        return f"{len(self.names)} {self.kind.noun if len(self.names) == 1 else self.kind.plural}"
