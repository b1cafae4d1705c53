"""Files of tensors: the bytes of the library, and the errors of the system."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from dnntrain.nn.safetensors_file import write_safetensors

TENSORS = {
    "b/weight": torch.arange(6.0).view(2, 3),
    "a": torch.tensor(3, dtype=torch.int64),
    "empty": torch.empty(0, 4),
    "bits": torch.tensor([True, False]),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("tensors", [TENSORS, {}], ids=["tensors", "none"])
def test_the_bytes_are_those_of_the_library(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    digest = write_safetensors(tmp_path / "a", tensors)
    data = (tmp_path / "a").read_bytes()
    assert data == save(tensors)
    assert digest == hashlib.sha256(data).hexdigest()


def test_others_may_read_the_file_as_far_as_the_umask_allows(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        previous = os.umask(umask)
        try:
            folder = tmp_path / f"{umask:o}"
            folder.mkdir()
            write_safetensors(folder / "a", TENSORS)
        finally:
            os.umask(previous)
        assert stat.S_IMODE((folder / "a").stat().st_mode) == mode


def test_an_error_of_the_system_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        write_safetensors(tmp_path / "no" / "folder", TENSORS)
    assert missing.value.filename == str(tmp_path / "no" / "folder")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as full:
            write_safetensors(tmp_path / "b", {"large": torch.zeros(4096)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert full.value.errno == errno.EFBIG
