"""Serve whole documents with a target each: the tokens of one are an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.token_source import TokenExamples
from dnntrain.input.tokenizer import Encoder, get_token_dtype
from dnntrain.protocols import ModelSpec, TargetKind, Vocabulary
from dnntrain.utils.rng import Index

if TYPE_CHECKING:
    from torch import Tensor


class DocumentSource(TokenExamples):
    """Documents of up to `length` - 1 tokens, with a target each.

    keys  the name of each document, which decides whether it is held out
    """

    def __init__(
        self,
        documents: Sequence[bytes],
        labels: NDArray[Any],
        keys: Sequence[str],
        length: int,
        vocabulary: Vocabulary,
        name: str,
    ) -> None:
        self.documents, self.labels, self.keys = documents, labels, keys
        self.length, self.vocabulary, self.name = length, vocabulary, name
        self.failures = {}
        self.rows = encode_rows(documents, length, vocabulary, f"data={name}")

    def gather(self, index: Index) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.rows[index].astype(np.int64), self.labels[index]

    def get_resident_inputs(self) -> Tensor:
        import torch

        return torch.from_numpy(self.rows)

    def describe(self, index: int) -> str:
        assert self.keys is not None
        return self.keys[index]

    def recode(self, vocabulary: Vocabulary) -> DocumentSource:
        assert self.keys is not None
        return DocumentSource(self.documents, self.labels, self.keys, self.length, vocabulary, self.name)


def encode_text(text: bytes, spec: ModelSpec, location: str) -> NDArray[np.int64]:
    """Return the tokens [1, length] of a text that a model of `spec` gets.

    Of a longer text, a class has the first tokens, and a next token the last ones. Raises DataError as
    `encode_rows` does.
    """
    inputs = spec.inputs
    assert inputs.vocabulary is not None
    length = inputs.shape[0]
    # A byte has at most one token, and one more begins the text.
    longest = len(text) + 2 if spec.targets.kind is TargetKind.TOKENS else length
    rows = encode_rows([text], max(length, longest), inputs.vocabulary, location)
    return rows[:, -length:].astype(np.int64)


def encode_rows(documents: Sequence[bytes], length: int, vocabulary: Vocabulary, location: str) -> NDArray[Any]:
    """Return the documents as tokens [n, length].

    Each ends with the last column, after the token that begins a document; the columns before it are
    filled with that token too. Of a longer document the first tokens are kept. Raises DataError, naming
    `location`, for characters that the vocabulary does not have, and if no token begins a document.
    """
    if vocabulary.separator is None:
        raise DataError(
            f"{location}: the model does not have a token that begins a text, so it reads texts of one length only",
            "use a model that was trained on several documents, or dnntrain generate",
        )
    encode = Encoder(vocabulary, location)
    rows = np.full((len(documents), length), vocabulary.separator, get_token_dtype(vocabulary))
    for row, document in zip(rows, documents, strict=True):
        tokens = encode(document)[: length - 1]
        row[length - len(tokens) :] = tokens
    return rows
