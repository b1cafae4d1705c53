"""Serve a text as windows of tokens, out of memory or out of a file that is mapped into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.source import DataSet
from dnntrain.input.tokenizer import decode_tokens, encode_documents
from dnntrain.protocols import InputSpec, TargetKind, TargetSpec, Vocabulary
from dnntrain.utils.rng import Index

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenText:
    """The tokens of a part of a corpus, unsigned or signed integers [n], one document after another.

    starts  the first token of each document, ascending
    names   the name of each document
    """

    tokens: NDArray[Any]
    starts: Sequence[int]
    names: Sequence[str]

    def count_windows(self, length: int) -> int:
        """Return the number of windows of `length` tokens, each of which has a next token."""
        return max(0, (len(self.tokens) - 1) // length)


class TokenExamples(ABC):
    """Examples of `length` tokens of a vocabulary, and the target or targets of each."""

    length: int
    labels: NDArray[Any]
    keys: Sequence[str] | None
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def gather(self, index: Index) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens [n, length] of the examples `index`, and their targets [n, …]."""

    @abstractmethod
    def get_resident_inputs(self) -> Tensor | None:
        """Return tokens in memory."""

    @abstractmethod
    def describe(self, index: int) -> str:
        """Return a name of the example."""

    @abstractmethod
    def recode(self, vocabulary: Vocabulary) -> Self:
        """Return the same texts in the tokens of another vocabulary.

        Raises DataError if it does not have a character.
        """

    def read(self, index: int) -> Tensor:
        import torch

        return torch.from_numpy(self.gather(np.array([index]))[0][0])


class TokenSource(TokenExamples):
    """Windows of `length` tokens of several texts, one after another; the targets are the next tokens.

    The tokens that do not fill the last window of a text are left out.
    """

    def __init__(self, texts: Sequence[TokenText], length: int, vocabulary: Vocabulary, name: str) -> None:
        self.texts, self.length, self.vocabulary, self.name = tuple(texts), length, vocabulary, name
        self.bounds = np.cumsum([0, *(text.count_windows(length) for text in texts)])
        # The engine asks for the number and the form of targets; the values are gathered with the inputs.
        self.labels = np.broadcast_to(np.int64(0), (int(self.bounds[-1]), length))
        self.keys = None
        self.failures = {}

    def gather(self, index: Index) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens [n, length] of the windows `index`, and the token after each."""
        rows = np.empty((len(index), self.length + 1), np.int64)
        offsets = np.arange(self.length + 1)
        for number, text in enumerate(self.texts):
            chosen = (index >= self.bounds[number]) & (index < self.bounds[number + 1])
            if chosen.any():
                starts = (index[chosen] - self.bounds[number]) * self.length
                rows[chosen] = text.tokens[starts[:, None] + offsets]
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

    def get_resident_inputs(self) -> Tensor:
        """Return the tokens of the first text: no window is read one by one."""
        import torch

        return torch.from_numpy(self.texts[0].tokens)

    def describe(self, index: int) -> str:
        number = int(np.searchsorted(self.bounds, index, side="right")) - 1
        text, first = self.texts[number], (index - int(self.bounds[number])) * self.length
        document = max(0, bisect_right(text.starts, first) - 1)
        return f"{text.names[document]} from token {first - text.starts[document]}"

    def recode(self, vocabulary: Vocabulary) -> Self:
        pieces = self.vocabulary.list_pieces()
        texts = []
        for text in self.texts:
            ends = [*text.starts[1:], len(text.tokens)]
            documents = [
                decode_tokens(pieces, text.tokens[start:end]) for start, end in zip(text.starts, ends, strict=True)
            ]
            # A long document is stored in several parts, of which only the first begins with the separator.
            begins = None
            if self.vocabulary.separates:
                begins = [bool(text.tokens[start] == self.vocabulary.separator) for start in text.starts]
            tokens, starts = encode_documents(documents, vocabulary, self.name, begins)
            texts.append(TokenText(tokens, starts, text.names))
        return type(self)(texts, self.length, vocabulary, self.name)


def make_token_dataset(
    name: str,
    train: TokenText,
    val: TokenText,
    test: TokenText,
    inputs: InputSpec,
    digest: str,
    notes: Sequence[str] = (),
) -> DataSet:
    """Return the data set of three texts.

    Raises DataError if a text that must have a window is shorter than one.
    """
    assert inputs.vocabulary is not None
    (length,), vocabulary = inputs.shape, inputs.vocabulary
    train_source = TokenSource([train, val], length, vocabulary, name)
    first = int(train_source.bounds[1])
    if not first:
        raise DataError(
            f"data={name}: the training text has {len(train.tokens)} tokens, too few for data.context={length}",
            "use a longer text, or a smaller data.context",
        )
    return DataSet(
        train=train_source,
        test=TokenSource([test], length, vocabulary, name),
        inputs=inputs,
        targets=TargetSpec((), TargetKind.TOKENS),
        digest=digest,
        val_index=np.arange(first, len(train_source)),
        has_test_part=False,
        notes=tuple(notes),
    )


def match_vocabulary(dataset: DataSet, inputs: InputSpec) -> DataSet:
    """Return the data set in the tokens of a model.

    Raises DataError if its windows have another length, or if a character is not in the vocabulary.
    """
    if dataset.inputs == inputs:
        return dataset
    assert inputs.vocabulary is not None
    if dataset.inputs.shape != inputs.shape:
        raise DataError(
            f"data.context={dataset.inputs.shape[0]} must be {inputs.shape[0]}, the context of the trained model",
            f"set data.context={inputs.shape[0]}",
        )
    train, test = dataset.train, dataset.test
    assert isinstance(train, TokenExamples)
    assert isinstance(test, TokenExamples)
    if dataset.inputs.vocabulary != inputs.vocabulary:
        train, test = train.recode(inputs.vocabulary), test.recode(inputs.vocabulary)
    val_index = dataset.val_index
    if isinstance(train, TokenSource):  # another vocabulary cuts a text into more or fewer windows
        val_index = np.arange(int(train.bounds[1]), len(train))
    return replace(dataset, train=train, test=test, inputs=inputs, val_index=val_index)
