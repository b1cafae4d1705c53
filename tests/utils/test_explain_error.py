"""Errors of the system are messages with exit code 2, 3 or 5, not bugs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dnntrain.errors import CheckpointError, ConfigError, DnntrainError
from dnntrain.utils.explain_error import explain_error
from dnntrain.utils.json_files import parse_json, read_json

_ALLOCATION = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes. Error code 12"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError(_ALLOCATION), ConfigError, "not enough memory for 3.6 TiB"),
        (MemoryError(), ConfigError, "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ConfigError, "not enough memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), ConfigError, "not enough memory"),
        (RuntimeError("can't start new thread"), ConfigError, "not enough memory"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 64]"), ConfigError, "not enough memory"),
        (OSError(errno.EMFILE, "Too many open files", "x"), ConfigError, "the limit of open files is reached (ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), ConfigError, "the limit of open files"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), CheckpointError, "No space left on device: /a/b"),
        (OSError(errno.EFBIG, "File too large", "/a/b"), CheckpointError, "File too large: /a/b"),
        (RuntimeError("shared memory(shm) </torch_1>: No space left on device (28)"), CheckpointError, "/dev/shm is full"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), ConfigError, "a path of 5000 characters"),
        (OSError(errno.EACCES, "Permission denied", "/"), CheckpointError, "/ cannot be used: Permission denied"),
        (OSError(errno.ENOENT, "No such file", "/no/where"), CheckpointError, "the folder /no does not exist"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_explained(error: Exception, kind: type[DnntrainError], text: str) -> None:
    explained = explain_error(error)
    assert type(explained) is kind
    assert text in str(explained)
    assert explained.exit_code in (2, 5)
    assert explained.hint


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError("shape mismatch"), KeyError("x"), OSError("x")])
def test_other_errors_stay_bugs(error: Exception) -> None:
    assert explain_error(error) is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100 + "1" + "}" * 100, "9" * 5000, b"\xff\xfe", "", "{", '{"a": }']
)
def test_damaged_json_is_a_value_error(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    file = tmp_path / "x.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_json(file) == {}
