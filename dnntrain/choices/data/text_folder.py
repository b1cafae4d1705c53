"""Your own texts: one folder of text files for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dnntrain.choices.data._folder_layout import FileKind, find_layout, get_class_number, list_folders
from dnntrain.choices.data._roots import find_data_root
from dnntrain.choices.data._text import check_vocabulary_options, choose_vocabulary
from dnntrain.config.fields import Annotated, Fraction, Literal, Range
from dnntrain.errors import DataError
from dnntrain.input.document_source import DocumentSource
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.input.split import hold_out_by_name
from dnntrain.input.text_files import read_text_file
from dnntrain.protocols import DataChoice, DataFeature, InputKind, InputSpec, TargetSpec, Vocabulary
from dnntrain.utils.rng import Key


@dataclass(frozen=True)
class TextFolder(DataChoice):
    """Text files in ROOT/train/CLASS/, ROOT/val/CLASS/ and ROOT/test/CLASS/, or in ROOT/CLASS/.

    An example is a document: its first `context` - 1 tokens. Shorter ones are padded before their
    beginning, and no token sees the padding. Without a test folder, a part of the files is kept for
    the test; the path of a file decides whether it belongs to it.
    """

    label_key: ClassVar[str] = "root"
    place_options: ClassVar[tuple[str, ...]] = ("root",)
    input_kind: ClassVar[InputKind] = InputKind.TOKENS
    features: ClassVar[frozenset[DataFeature]] = frozenset()

    root: str | None = None  # folder with train/ and test/, or with the class folders; null: $DNNTRAIN_DATA
    val_fraction: Fraction = 0.1  # fraction of each class of the training split held out for validation
    sampler: Literal["shuffled", "balanced"] = (
        "shuffled"  # order of an epoch: shuffled, or balanced (equally many examples of each class)
    )
    context: Annotated[int, Range(at_least=2, at_most=2**20)] = 256  # tokens of an example
    tokenizer: Literal["byte", "char", "bpe"] = (
        "byte"  # tokens: byte, char (the characters of the texts) or bpe (byte pairs, counted in the training texts)
    )
    vocabulary_size: Annotated[int, Range(at_least=257, at_most=2**18)] | None = (
        None  # largest number of tokens of tokenizer=bpe; null: 4096
    )
    vocabulary_from: str | None = None  # run or export whose tokens are used, to train it on; null: tokenizer says
    suffixes: tuple[str, ...] = (".txt", ".md")  # suffixes of the files
    test_fraction: Annotated[float, Range(above=0, below=1)] = (
        0.2  # fraction of the files held out for the test if there is no test split
    )

    def __post_init__(self) -> None:
        check_vocabulary_options(self.tokenizer, self.vocabulary_size, self.vocabulary_from)

    @property
    def measures_training(self) -> bool:
        return self.vocabulary_from is None and self.tokenizer != "byte"

    def check_files(self) -> None:
        layout = find_layout(find_data_root(self.root, "text_folder"), self._kind)
        for folder in filter(None, (layout.train, layout.val, layout.test)):
            self._find_classes(folder)

    def build(self) -> DataSet:
        return self._build(min_classes=2)

    def build_for_evaluation(self) -> DataSet:
        return self._build(min_classes=1)

    def _build(self, min_classes: int) -> DataSet:
        layout = find_layout(find_data_root(self.root, "text_folder"), self._kind)
        train = self._read(layout.train)
        if len(train.names) < min_classes:
            raise DataError(f"{layout.train} holds one class folder; at least 2 are needed", self._kind.layout_hint)
        val, test = (
            None if folder is None else self._read(folder, train.names) for folder in (layout.val, layout.test)
        )
        if test is None:
            kept, held = hold_out_by_name(train.keys, train.labels, self.test_fraction, Key(2012, "text folder test"))
            train, test = train.select(kept), train.select(held)
        others = [*test.documents, *(val.documents if val is not None else ())]
        vocabulary = choose_vocabulary(
            self.vocabulary_from, self.tokenizer, others, train.documents, self.vocabulary_size, separates=True
        )
        val_index = None
        if val is not None:
            val_index = np.arange(len(train.keys), len(train.keys) + len(val.keys))
            train = train.join(val)
        texts = [np.frombuffer(document, np.uint8) for document in (*train.documents, *test.documents)]
        digest = compute_digest([repr(vocabulary), *train.names, train.labels, test.labels, *texts])
        return DataSet(
            train=self._make_source(train, vocabulary),
            test=self._make_source(test, vocabulary),
            inputs=InputSpec((self.context,), (), (), vocabulary=vocabulary, isolates_documents=True),
            targets=TargetSpec(train.names),
            digest=digest,
            val_index=val_index,
            has_test_part=layout.test is not None,
            notes=(*layout.notes, *self._note_long_documents(train.documents)),
        )

    @property
    def _kind(self) -> FileKind:
        return FileKind("texts", self.suffixes)

    def _find_classes(self, folder: Path) -> list[Path]:
        classes = list_folders(folder)
        if not classes:
            raise DataError(f"{folder}: there is no class folder in it", self._kind.layout_hint)
        return classes

    def _make_source(self, split: _Split, vocabulary: Vocabulary) -> DocumentSource:
        return DocumentSource(split.documents, split.labels, split.keys, self.context, vocabulary, "text_folder")

    def _note_long_documents(self, documents: Sequence[bytes]) -> tuple[str, ...]:
        if self.tokenizer == "bpe":
            return ()
        count = sum(len(document) >= self.context for document in documents)
        if 2 * count < len(documents):
            return ()
        share = round(100 * count / len(documents))
        return (f"{share} % of the texts are longer than data.context={self.context} tokens, and are cut",)

    def _read(self, folder: Path, names: tuple[str, ...] = ()) -> _Split:
        """Read the documents of a split. Raises DataError for a class without texts, or a new one."""
        classes = self._find_classes(folder)
        names = names or tuple(path.name for path in classes)
        documents: list[bytes] = []
        labels: list[int] = []
        keys: list[str] = []
        for path in classes:
            number = get_class_number(path, names, self._kind)
            files = sorted(self._kind.find(path))
            texts = [(file, text) for file in files if (text := read_text_file(file)).strip()]
            if not texts:
                raise DataError(
                    f"{path}: class {path.name} has no text in files with the suffix {' or '.join(self.suffixes)}",
                    "name others, as in data.suffixes=[.rst]",
                )
            documents += [text for _, text in texts]
            keys += [file.relative_to(folder).as_posix() for file, _ in texts]
            labels += [number] * len(texts)
        return _Split(names, documents, np.array(labels, np.int64), keys)


@dataclass(frozen=True)
class _Split:
    """The documents of a split with the number of the class of each, and their paths."""

    names: tuple[str, ...]
    documents: Sequence[bytes]
    labels: NDArray[np.int64]
    keys: Sequence[str]

    def select(self, index: NDArray[np.int64]) -> _Split:
        documents, keys = ([items[number] for number in index] for items in (self.documents, self.keys))
        return _Split(self.names, documents, self.labels[index], keys)

    def join(self, other: _Split) -> _Split:
        labels = np.concatenate([self.labels, other.labels])
        return _Split(self.names, [*self.documents, *other.documents], labels, [*self.keys, *other.keys])
