"""Build a data set from documents: the splits, the vocabulary, and the windows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.config.fields import Annotated, Fraction, Literal, Range
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.input.text_files import Document, cut_sections, hold_out_documents
from dnntrain.input.token_files import TEST_KEY, VAL_KEY
from dnntrain.input.token_source import TokenText, make_token_dataset
from dnntrain.input.tokenizer import encode_documents, make_vocabulary
from dnntrain.protocols import DataChoice, DataFeature, InputKind, InputSpec, Vocabulary
from dnntrain.utils.units import format_bytes, pluralize


@dataclass(frozen=True)
class ContextData(DataChoice):
    """Windows of tokens of a text. A choice adds `build() -> DataSet`."""

    context: Annotated[int, Range(at_least=2, at_most=2**20)] = 256  # tokens of an example
    isolate_documents: bool = False  # true: a token sees the tokens of its own document only

    input_kind: ClassVar[InputKind] = InputKind.TOKENS
    features: ClassVar[frozenset[DataFeature]] = frozenset()


@dataclass(frozen=True)
class TokenizedText(ContextData):
    """A text that is cut into tokens when it is read."""

    val_fraction: Fraction = 0.02  # fraction of the documents held out for validation
    test_fraction: Fraction = 0.02  # fraction of the documents held out for the test
    tokenizer: Literal["byte", "char", "bpe"] = (
        "byte"  # tokens: byte, char (the characters of the text) or bpe (byte pairs, counted in the training text)
    )
    vocabulary_size: Annotated[int, Range(at_least=257, at_most=2**18)] | None = (
        None  # largest number of tokens of tokenizer=bpe; null: 4096
    )
    vocabulary_from: str | None = None  # run or export whose tokens are used, to train it on; null: tokenizer says

    def __post_init__(self) -> None:
        check_vocabulary_options(self.tokenizer, self.vocabulary_size, self.vocabulary_from)

    @property
    def measures_training(self) -> bool:
        return self.vocabulary_from is None and self.tokenizer != "byte"

    def make_dataset(self, name: str, documents: Sequence[Document], tests: Sequence[Document] | None) -> DataSet:
        """Return the data set of the documents; a part of them is the test split if there are no `tests`."""
        train, val, test = split_documents(name, documents, tests, self.val_fraction, self.test_fraction)
        every = [*documents, *(tests or ())]
        vocabulary = choose_vocabulary(
            self.vocabulary_from,
            self.tokenizer,
            [document.data for document in (*val, *test)],
            [document.data for document in train],
            self.vocabulary_size,
            separates=len(every) > 1,
        )
        train_text, val_text, test_text = (_encode(name, part, vocabulary) for part in (train, val, test))
        size = sum(len(document.data) for document in every)
        return make_token_dataset(
            name,
            train_text,
            val_text,
            test_text,
            self.make_inputs(vocabulary),
            compute_digest([name, repr(vocabulary), train_text.tokens, val_text.tokens, test_text.tokens]),
            notes=[f"{pluralize(len(every), 'document')}, {format_bytes(size)} of text"],
        )

    def make_inputs(self, vocabulary: Vocabulary) -> InputSpec:
        """Return the form of the inputs. Raises ConfigError if documents cannot be separated."""
        return make_token_inputs(vocabulary, self.context, self.isolate_documents)


def check_vocabulary_options(tokenizer: str, size: int | None, source: str | None) -> None:
    """Raise ValueError if an option of the tokenizer has no effect."""
    if source is not None and (tokenizer != "byte" or size is not None):
        raise ValueError(
            f"tokenizer={tokenizer} has no effect with vocabulary_from={source}, which states the tokens; leave it out"
        )
    if size is not None and tokenizer != "bpe":
        raise ValueError(f"vocabulary_size={size} has no effect with tokenizer={tokenizer}; use tokenizer=bpe")


def choose_vocabulary(
    source: str | None,
    tokenizer: str,
    other_documents: Sequence[bytes],
    train_documents: Sequence[bytes],
    size: int | None,
    separates: bool,
) -> Vocabulary:
    """Return the vocabulary of the run `source`, or that of a corpus.

    Raises ConfigError if the run has none.
    """
    if source is not None:
        from dnntrain.checkpoint.saved_vocabulary import read_vocabulary

        return read_vocabulary(Path(source).expanduser())
    return make_vocabulary(tokenizer, other_documents, train_documents, size or 4096, separates)


def make_token_inputs(vocabulary: Vocabulary, context: int, isolate_documents: bool) -> InputSpec:
    """Return the form of windows of `context` tokens.

    Raises ConfigError if documents must be isolated but nothing separates them.
    """
    if isolate_documents and not vocabulary.separates:
        raise ConfigError(
            "data.isolate_documents=true has no effect, because the text is one document",
            "name the text between documents, as in data.separator='<|endoftext|>', or leave it out",
        )
    return InputSpec((context,), (), (), vocabulary=vocabulary, isolates_documents=isolate_documents)


def split_documents(
    name: str,
    documents: Sequence[Document],
    tests: Sequence[Document] | None,
    val_fraction: float,
    test_fraction: float,
) -> tuple[list[Document], list[Document], list[Document]]:
    """Return the documents, or sections of them, of the training, validation and test splits.

    Raises DataError if there is no text.
    """
    if not documents or (tests is not None and not tests):
        raise DataError(f"data={name}: the text is empty", "use files with text in them")
    sections = cut_sections(documents)
    if tests is None:
        sections, test = hold_out_documents(sections, test_fraction, TEST_KEY)
    else:
        test = list(tests)
    train, val = hold_out_documents(sections, val_fraction, VAL_KEY)
    return train, val, test


def _encode(name: str, documents: Sequence[Document], vocabulary: Vocabulary) -> TokenText:
    tokens, starts = encode_documents(
        [document.data for document in documents],
        vocabulary,
        f"data={name}",
        [document.begins for document in documents],
    )
    return TokenText(tokens, starts, [document.name for document in documents])
