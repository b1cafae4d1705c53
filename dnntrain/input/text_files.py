"""Read documents from text files, and divide them into the splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnntrain.errors import DataError
from dnntrain.input.data_files import find_data_files
from dnntrain.input.split import hold_out_by_name
from dnntrain.utils.rng import Key

#: A document that is longer than this share of the corpus is cut into sections, which may be in different splits.
_MAX_SHARE = 1 / 128

#: The shortest section, in bytes.
_MIN_SECTION = 1024


@dataclass(frozen=True)
class Document:
    """A document, or a section of one: valid UTF-8.

    begins  whether it is a document's first section
    """

    name: str
    data: bytes
    begins: bool = True


def find_text_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the file `path`, or the files of the folder `path` with these suffixes, sorted by name.

    Hidden files and run directories are left out.

    Raises DataError if there is none.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "name a text file, or a folder of text files: data.path=FOLDER")
    if not path.is_dir():
        return [path]
    files = sorted(find_data_files(path, suffixes=suffixes))
    if not files:
        raise DataError(
            f"{path} has no file with the suffix {' or '.join(suffixes)}", "name others, as in data.suffixes=[.rst]"
        )
    return files


def read_documents(files: Iterable[Path], separator: str | None = None) -> list[Document]:
    """Return the documents of text files: each file is one, or has several with `separator` between them.

    Empty documents are left out. Raises DataError, which names the file, if one is not text.
    """
    documents = []
    for file in files:
        text = read_text_file(file)
        parts = [text] if separator is None else text.split(separator.encode())
        documents += [
            Document(file.name if len(parts) == 1 else f"{file.name} document {number}", part)
            for number, part in enumerate(parts, 1)
            if part.strip()
        ]
    return documents


def read_text_file(file: Path) -> bytes:
    """Return the bytes of a text file. Raises DataError if it is not UTF-8 text."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})", "check its permissions") from None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        place = error.start
    else:
        place = data.find(b"\0")
    if place >= 0:
        raise DataError(
            f"{file} is not a text file: byte {place} is 0x{data[place]:02x}, which UTF-8 text does not have there",
            "convert it to UTF-8, or leave it out",
        )
    return data


def cut_sections(documents: Sequence[Document]) -> list[Document]:
    """Return the documents, of which those that are a large part of the corpus are cut into sections.

    Sections end at the end of a line if there is one.
    """
    limit = limit_section(sum(len(document.data) for document in documents))
    return [section for document in documents for section in cut_section(document, limit)]


def limit_section(corpus_bytes: int) -> int:
    """Return the bytes of a section of a corpus; a section may be up to twice as long."""
    return max(_MIN_SECTION, int(corpus_bytes * _MAX_SHARE))


def cut_section(document: Document, limit: int) -> Iterator[Document]:
    """Yield the sections of a document."""
    first = 0
    while first < len(document.data):
        end = _find_section_end(document.data, first, limit)
        yield Document(document.name, document.data[first:end], document.begins and first == 0)
        first = end


def _find_section_end(data: bytes, first: int, limit: int) -> int:
    if len(data) - first <= 2 * limit:
        return len(data)
    end = data.find(b"\n", first + limit, first + 2 * limit) + 1
    if end:
        return end
    end = first + limit
    while data[end] & 0xC0 == 0x80:  # within a character
        end += 1
    return end


def hold_out_documents(
    documents: Sequence[Document], fraction: float, key: Key
) -> tuple[list[Document], list[Document]]:
    """Return the documents that are kept and those that are held out.

    The hash of the content decides, so equal documents are in one split and new ones move no other.
    """
    if not fraction or len(documents) < 2:
        return list(documents), []
    names = [hashlib.blake2b(document.data, digest_size=12).hexdigest() for document in documents]
    kept, others = hold_out_by_name(names, np.zeros(len(names), np.int64), fraction, key)
    return [documents[number] for number in kept], [documents[number] for number in others]
