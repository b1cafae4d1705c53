"""Find the file of a model, and its kind by its first bytes. Imports no torch."""

from __future__ import annotations

import stat
from enum import Enum
from pathlib import Path

from dnntrain.errors import CheckpointError
from dnntrain.utils.files import is_run_directory, open_file
from dnntrain.utils.suggest import suggest_run

FILE_KINDS_HINT = "a model file is .safetensors, or a .pt or .pth that holds tensors only"


class ModelFileKind(Enum):
    """The format of a model file, whatever its name."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


def find_model_file(path: Path) -> tuple[Path, ModelFileKind]:
    """Return the file `path`, or `model.safetensors` in the folder `path`, and its kind.

    Raises CheckpointError if it is missing, cannot be read, or is not a model file.
    """
    path = _resolve_path(path)
    try:
        start = read_first_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if start[8:9] == b"{" and not start.startswith(b"PK"):
        return path, ModelFileKind.SAFETENSORS
    if start.startswith(b"PK") or start[:1] == b"\x80":
        return path, ModelFileKind.TORCH
    raise CheckpointError(f"{path} is not a model file: {_describe_content(start)}", FILE_KINDS_HINT)


def has_checkpoint(path: Path) -> bool:
    """Return whether the folder `path` is a run with a checkpoint, which holds a model before the run ends."""
    return any((path / "checkpoints" / name).is_file() for name in ("LAST", "BEST"))


def _resolve_path(path: Path) -> Path:
    if path.is_dir():
        weights_path = path / "model.safetensors"
        if not weights_path.is_file():
            raise CheckpointError(
                f"{path} holds no model.safetensors, which a run writes at its end",
                f"finish the run with `dnntrain resume {path}`, or name a model file",
            )
        if weights_path.is_symlink() and is_run_directory(path):
            raise CheckpointError(f"{weights_path} is a symbolic link", "name the file that it leads to")
        return weights_path
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            suggest_run(path, "model.safetensors") if isinstance(error, FileNotFoundError) else "",
        ) from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} must be a file or a folder")
    return path


def read_first_bytes(path: Path) -> bytes:
    """Return up to 512 bytes of the file."""
    with open_file(path, follow_links=True) as file:
        return file.read(512)


def _describe_content(start: bytes) -> str:
    """Describe the likely content of a file that begins with `start`."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, perhaps the error page of a download"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if text.startswith((b"{", b"[")):
        return "it is JSON"
    if b"onnx" in start or b"pytorch" in start[:64]:
        return "it is an ONNX file, which cannot be trained on"
    return "its format is unknown; it may be damaged"
