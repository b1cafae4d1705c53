"""The source of Python's standard library: real text on every machine."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from dnntrain.choices.data._text import TokenizedText
from dnntrain.errors import DataError
from dnntrain.input.source import DataSet
from dnntrain.input.text_files import Document, read_text_file

#: Folders without source of the library itself.
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"})


@dataclass(frozen=True)
class PythonLibrary(TokenizedText):
    """The modules of the standard library of the running Python, sorted by name.

    Each file is a document. The text depends on the version of Python.
    """

    def check_files(self) -> None:
        if not find_library_files():
            raise DataError(
                f"{_get_folder()} holds no source of the standard library", "use data=text data.path=FOLDER"
            )

    def build(self) -> DataSet:
        folder = _get_folder()
        documents = []
        for file in find_library_files():
            try:
                documents.append(Document(file.relative_to(folder).as_posix(), read_text_file(file)))
            except DataError:  # a file in another encoding, which its first line names
                continue
        return self.make_dataset("python_library", [item for item in documents if item.data.strip()], None)


def _get_folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def find_library_files() -> list[Path]:
    """Return the Python files of the standard library, sorted by name, without its tests."""
    folder = _get_folder()
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        files += [Path(parent) / name for name in names if name.endswith(".py")]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())
