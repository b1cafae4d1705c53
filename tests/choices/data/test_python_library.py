"""data=python_library: the source of the standard library, without its tests."""

from __future__ import annotations

import dataclasses

import pytest

from dnntrain.choices.data import python_library
from dnntrain.choices.data.python_library import PythonLibrary
from dnntrain.errors import DataError


def test_the_library_is_sorted_and_has_no_tests() -> None:
    files = python_library.find_library_files()
    names = [file.as_posix() for file in files]
    assert len(files) > 300
    assert not any("/test/" in name or "/site-packages/" in name for name in names)
    assert any(name.endswith("/argparse.py") for name in names)


def test_the_library_is_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [file for file in python_library.find_library_files() if "/json/" in file.as_posix()]
    monkeypatch.setattr(python_library, "find_library_files", lambda: files)
    choice = dataclasses.replace(PythonLibrary(), context=32, val_fraction=0.1, test_fraction=0.1)
    choice.check_files()
    assert "json/decoder.py" in {name for text in choice.build().train.texts for name in text.names} | set(
        choice.build().test.texts[0].names
    )
    monkeypatch.setattr(python_library, "find_library_files", list)
    with pytest.raises(DataError, match="holds no source"):
        choice.check_files()
