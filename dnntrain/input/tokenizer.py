"""Cut a text into the tokens of a vocabulary, and join tokens to a text.

Bytes and characters are tables; pairs are merged by `byte_pairs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.errors import DataError
from dnntrain.input.byte_pairs import count_words, encode_byte_pairs, train_byte_pairs
from dnntrain.protocols import Vocabulary

#: Code points of Unicode.
_CODE_POINTS = 0x110000

#: Characters that a message lists.
_MAX_LISTED = 8


class VocabularyBuilder:
    """Collects the characters, or the words, of documents that are added one by one."""

    def __init__(self, kind: str, size: int) -> None:
        self._kind, self._size = kind, size
        self._points = np.empty(0, np.uint32)
        self._words: Counter[bytes] = Counter()

    def add(self, document: bytes, is_training: bool) -> None:
        """Add a document. Words are counted in training documents, characters are those of all."""
        if self._kind == "char":
            self._points = np.union1d(self._points, _read_code_points(document))
        elif self._kind == "bpe" and is_training:
            self._words.update(count_words([document]))

    def build(self, separates: bool) -> Vocabulary:
        """Return the vocabulary of the documents. `separates`: a token of its own begins each."""
        if self._kind == "char":
            return Vocabulary(self._kind, "".join(map(chr, self._points.tolist())), separates=separates)
        merges = train_byte_pairs(self._words, self._size - 256) if self._kind == "bpe" else ()
        return Vocabulary(self._kind, merges=merges, separates=separates)


def make_vocabulary(
    kind: str, other_documents: Sequence[bytes], train_documents: Sequence[bytes], size: int, separates: bool
) -> Vocabulary:
    """Return the vocabulary of a corpus, of which `train_documents` are the training part."""
    builder = VocabularyBuilder(kind, size)
    for documents, is_training in ((other_documents, False), (train_documents, True)):
        for document in documents:
            builder.add(document, is_training)
    return builder.build(separates)


def get_token_dtype(vocabulary: Vocabulary) -> np.dtype[Any]:
    """Return the type in which tokens are kept."""
    return np.dtype({1: np.uint8, 2: np.int16, 4: np.int32}[vocabulary.bytes_per_token])


def encode_documents(
    documents: Sequence[bytes], vocabulary: Vocabulary, location: str, begins: Sequence[bool] | None = None
) -> tuple[NDArray[Any], list[int]]:
    """Return the tokens of the documents in a row, and the first token of each.

    The separator is put before each document of which `begins` is true, or before all. Raises
    DataError, naming `location`, for characters that the vocabulary does not have.
    """
    dtype = get_token_dtype(vocabulary)
    encode = Encoder(vocabulary, location)
    mark = np.array([vocabulary.separator] if vocabulary.separates else [], dtype)
    parts: list[NDArray[Any]] = []
    starts, count = [], 0
    for number, document in enumerate(documents):
        starts.append(count)
        document_parts = [mark] if begins is None or begins[number] else []
        document_parts.append(encode(document).astype(dtype))
        parts += document_parts
        count += sum(map(len, document_parts))
    return np.concatenate(parts) if parts else np.empty(0, dtype), starts


def encode_text(text: str, vocabulary: Vocabulary, location: str) -> list[int]:
    """Return the tokens of a text, without a separator.

    Raises DataError, naming `location`, for characters that the vocabulary does not have.
    """
    tokens: list[int] = Encoder(vocabulary, location)(text.encode("utf-8", "surrogatepass")).tolist()
    return tokens


def decode_tokens(pieces: Sequence[bytes], tokens: Iterable[int] | NDArray[Any]) -> bytes:
    """Return the bytes of tokens; `pieces` are those of the vocabulary."""
    numbers = tokens.tolist() if isinstance(tokens, np.ndarray) else tokens
    return b"".join([pieces[number] for number in numbers])


class Encoder:
    """Maps the bytes of a document to token numbers."""

    def __init__(self, vocabulary: Vocabulary, location: str) -> None:
        self._vocabulary, self._location = vocabulary, location
        self._words: dict[bytes, list[int]] = {}
        if vocabulary.kind == "char":
            self._table = np.full(_CODE_POINTS, -1, np.int32)
            points = [ord(character) for character in vocabulary.characters]
            self._table[points] = np.arange(len(points))
        if vocabulary.kind == "bpe":
            self._ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}

    def __call__(self, document: bytes) -> NDArray[Any]:
        if self._vocabulary.kind == "byte":
            return np.frombuffer(document, np.uint8)
        if self._vocabulary.kind == "bpe":
            return np.array(encode_byte_pairs(document, self._ranks, self._words), np.int32)
        points = _read_code_points(document)
        numbers: NDArray[np.int32] = self._table[points]
        if (numbers < 0).any():
            raise DataError(
                f"{self._location}: the vocabulary does not have {_list_characters(points[numbers < 0])}",
                f"its {len(self._vocabulary.characters)} characters are those of the training text; "
                "data.tokenizer=byte has every character",
            )
        return numbers


def _read_code_points(document: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(document.decode("utf-8", "surrogatepass").encode("utf-32-le", "surrogatepass"), np.uint32)


def _list_characters(points: NDArray[np.uint32]) -> str:
    characters = [repr(chr(point)) for point in np.unique(points).tolist()]
    more = f" and {len(characters) - _MAX_LISTED} more" if len(characters) > _MAX_LISTED else ""
    return f"the character{'s' if len(characters) > 1 else ''} {', '.join(characters[:_MAX_LISTED])}{more}"
