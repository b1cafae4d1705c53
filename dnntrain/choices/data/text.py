"""Your own text: a file, or a folder of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.choices.data._text import TokenizedText
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.source import DataSet
from dnntrain.input.text_files import find_text_files, read_documents


@dataclass(frozen=True)
class TextFiles(TokenizedText):
    """The documents of text files in UTF-8.

    A part of the documents is kept for validation and test. The content of a document decides to which
    split it belongs, so equal documents are never in two splits; a long document is cut into sections.
    """

    label_key: ClassVar[str] = "path"
    place_options: ClassVar[tuple[str, ...]] = ("path", "test_path")

    path: str | None = None  # text file, or folder of text files
    test_path: str | None = None  # file or folder of the test split; null: a part of the documents is held out
    suffixes: tuple[str, ...] = (".txt", ".md")  # suffixes of the files of a folder
    separator: str | None = None  # text between the documents of a file; null: each file is one document

    def check_files(self) -> None:
        for path in self._list_paths():
            files = find_text_files(path, self.suffixes)
            if not any(file.stat().st_size for file in files):
                raise DataError(f"{path} holds no text: every file is empty", "use files with text in them")

    def build(self) -> DataSet:
        if self.separator == "":
            raise ConfigError("data.separator must not be empty", "use data.separator=null for one document a file")
        train, *tests = (
            read_documents(find_text_files(path, self.suffixes), self.separator) for path in self._list_paths()
        )
        return self.make_dataset("text", train, tests[0] if tests else None)

    def _list_paths(self) -> list[Path]:
        if self.path is None:
            raise ConfigError("data=text needs a file or a folder", "as in data.path=book.txt")
        return [Path(name).expanduser() for name in (self.path, self.test_path) if name is not None]
