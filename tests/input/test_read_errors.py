"""A file of the data that cannot be opened is a mistake in the data, exit code 3."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dnntrain.errors import DataError
from dnntrain.input.read_errors import explain_unreadable_data
from dnntrain.input.unreadable import describe_skipped
from dnntrain.utils.explain_error import explain_error


def test_a_folder_without_permission_is_named() -> None:
    with pytest.raises(DataError, match="photos/a cannot be read: Permission denied"), explain_unreadable_data():
        raise PermissionError(errno.EACCES, "Permission denied", "photos/a")


def test_a_lack_of_file_handles_is_not_the_fault_of_the_data() -> None:
    with pytest.raises(OSError, match="Too many open files") as caught, explain_unreadable_data():
        raise OSError(errno.EMFILE, "Too many open files", "photos/a/1.png")
    error = explain_error(caught.value)
    assert error is not None
    assert error.exit_code == 2


def test_an_error_of_the_data_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"), explain_unreadable_data():
        raise DataError("no images")


def test_the_named_skipped_example_does_not_depend_on_the_order_of_reading() -> None:
    reasons = ["b.png: it is empty", "a.png: it is empty"]
    for order in (reasons, reasons[::-1]):
        assert describe_skipped(order) == "2 unreadable examples were skipped; the first: a.png: it is empty"
