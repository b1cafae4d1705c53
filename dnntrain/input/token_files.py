"""Write a corpus as files of tokens, document by document, and map them into memory.

A folder has `tokens.json`, with the vocabulary and the documents of each split, and a file
`SPLIT.bin` of numbers for each. It may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnntrain.errors import ConfigError, DataError
from dnntrain.input.split import is_held_out
from dnntrain.input.text_files import Document, cut_section, find_text_files, limit_section, read_documents
from dnntrain.input.token_source import TokenText
from dnntrain.input.tokenizer import Encoder, VocabularyBuilder, get_token_dtype
from dnntrain.protocols import Vocabulary
from dnntrain.utils.rng import Key
from dnntrain.utils.sealed_json import read_sealed_json, write_sealed_json

#: The splits of the data, in the order of their files.
SPLITS = ("train", "val", "test")
INDEX_NAME = "tokens.json"

#: They hold out the documents that data=text holds out.
TEST_KEY, VAL_KEY = Key(2012, "text test"), Key(2012, "text validation")


@dataclass(frozen=True)
class TokenizeOptions:
    """How a corpus is cut: see the options of data=text."""

    tokenizer: str = "byte"
    vocabulary_size: int = 4096
    suffixes: Sequence[str] = (".txt", ".md")
    separator: str | None = None
    val_fraction: float = 0.02
    test_fraction: float = 0.02


def tokenize_files(
    paths: Sequence[Path], folder: Path, options: TokenizeOptions, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Write the tokens of text files into `folder`, and return the content of its index without documents.

    The files are read twice, one at a time. Raises DataError if there is no text, ConfigError if the
    folder has files already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--path {folder} is not empty", "name a new folder")
    files = [file for path in paths for file in find_text_files(path, options.suffixes)]
    builder, documents = VocabularyBuilder(options.tokenizer, options.vocabulary_size), 0
    for split, section in _iterate_sections(files, options):
        builder.add(section.data, split == "train")
        documents += section.begins
    if not documents:
        raise DataError(f"{', '.join(map(str, paths))}: the text is empty", "use files with text in them")
    vocabulary = builder.build(separates=documents > 1)
    progress(f"{documents} documents, {vocabulary.size} tokens in the vocabulary")
    folder.mkdir(parents=True, exist_ok=True)
    writers = {split: _SplitWriter(folder / f"{split}.bin", vocabulary) for split in SPLITS}
    encode = Encoder(vocabulary, str(folder))
    try:
        for split, section in _iterate_sections(files, options):
            writers[split].add(section, encode)
    finally:
        for writer in writers.values():
            writer.close()
    summary = {
        "vocabulary": asdict(vocabulary),
        "documents": documents,
        "tokens": {split: writer.count for split, writer in writers.items()},
    }
    splits = {split: writer.describe() for split, writer in writers.items()}
    # The index is the last file: a folder without it is incomplete.
    write_sealed_json(folder / INDEX_NAME, {"schema": 1, **summary, "splits": splits})
    return summary


def _iterate_sections(files: Sequence[Path], options: TokenizeOptions) -> Iterator[tuple[str, Document]]:
    """Yield each section with its split: the hash of its content decides."""
    limit = limit_section(sum(file.stat().st_size for file in files))
    for file in files:
        for document in read_documents([file], options.separator):
            for section in cut_section(document, limit):
                name = hashlib.blake2b(section.data, digest_size=12).hexdigest()
                if is_held_out(name, options.test_fraction, TEST_KEY):
                    yield "test", section
                else:
                    yield "val" if is_held_out(name, options.val_fraction, VAL_KEY) else "train", section


class _SplitWriter:
    """Appends the tokens of sections to a file."""

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        self._file: BinaryIO = path.open("wb")
        self._dtype, self._separator = get_token_dtype(vocabulary), vocabulary.separator
        self._digest = hashlib.sha256()
        self._starts: list[int] = []
        self._names: list[str] = []
        self.count = 0

    def add(self, section: Document, encode: Encoder) -> None:
        tokens = encode(section.data).astype(self._dtype)
        if section.begins and self._separator is not None:
            tokens = np.concatenate([np.array([self._separator], self._dtype), tokens])
        self._starts.append(self.count)
        self._names.append(section.name)
        data = tokens.tobytes()
        self._file.write(data)
        self._digest.update(data)
        self.count += len(tokens)

    def close(self) -> None:
        self._file.close()

    def describe(self) -> dict[str, Any]:
        return {
            "tokens": self.count,
            "sha256": self._digest.hexdigest(),
            "starts": self._starts,
            "names": self._names,
        }


def check_token_folder(folder: Path) -> None:
    """Raise DataError if `folder` was not written by `dnntrain tokenize`. This reads nothing."""
    for name in (INDEX_NAME, *(f"{split}.bin" for split in SPLITS)):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name} does not exist", "write the folder with: dnntrain tokenize TEXT --path FOLDER"
            )


def read_token_index(folder: Path) -> Mapping[str, Any]:
    """Return the index of a folder of tokens. Raises DataError if it is damaged."""
    check_token_folder(folder)
    index = read_sealed_json(folder / INDEX_NAME)
    if index.get("schema") != 1:
        raise DataError(f"{folder / INDEX_NAME} is damaged or of another version", "tokenize the text again")
    return index


def map_token_text(folder: Path, split: str, index: Mapping[str, Any], vocabulary: Vocabulary) -> TokenText:
    """Return the tokens of a split, mapped into memory. Raises DataError if the file has another size."""
    description, dtype, path = index["splits"][split], get_token_dtype(vocabulary), folder / f"{split}.bin"
    if path.stat().st_size != description["tokens"] * dtype.itemsize:
        raise DataError(f"{path} is damaged: its size is not that of {INDEX_NAME}", "tokenize the text again")
    # Copies of changed pages are private, so the file cannot change, and torch may take the array.
    tokens = np.memmap(path, dtype, "c") if description["tokens"] else np.empty(0, dtype)
    return TokenText(tokens, description["starts"], description["names"])
