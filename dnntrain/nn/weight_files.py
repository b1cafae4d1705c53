"""Read model files as named tensors: safetensors, or PyTorch `weights_only=True`.

No code is run. The first bytes of a file decide its format, not its name.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError
from dnntrain.nn.model_paths import ModelFileKind, find_model_file, read_first_bytes
from dnntrain.nn.safetensors_file import is_intact
from dnntrain.utils.files import open_file

#: A header holds about 100 bytes for each tensor; this is room for 150,000 of them.
_MAX_HEADER_BYTES = 16 * 2**20

#: Keys under which a PyTorch file may keep its weights if it is not a state_dict itself.
_STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict", "model_state")


@dataclass(frozen=True)
class ModelFile:
    """The tensors of an open file: the shape of each name, and `read(name)`.

    `read` may raise CheckpointError.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def open_model_file(path: Path) -> Iterator[ModelFile]:
    """Open the file `path`, or `model.safetensors` in the folder `path`.

    Raises CheckpointError for others.
    """
    path, kind = find_model_file(path)
    if kind is ModelFileKind.SAFETENSORS:
        yield from _open_safetensors(path)
    else:
        yield _read_torch_file(path)


@contextmanager
def _wrap_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def _open_safetensors(path: Path) -> Iterator[ModelFile]:
    from safetensors import SafetensorError, safe_open

    with _wrap_read_errors(path):
        _check_header(path)
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        # Not a mapping: the handle has no items().
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", _FETCH_AGAIN_HINT) from None

    def read(name: str) -> Tensor:
        try:
            tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged at {name!r}: {error}", _FETCH_AGAIN_HINT) from None
        return tensor

    with file:
        yield ModelFile(path, shapes, read)


_FETCH_AGAIN_HINT = "copy or download it again"


def _check_header(path: Path) -> None:
    """Check the size of the header, that its names are unique, and the checksum that it may name.

    The library checks the rest.
    """
    size = path.stat().st_size
    with open_file(path, follow_links=True) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise CheckpointError(
                f"{path} is damaged: its header should have {length} bytes, but the file has {size}", _FETCH_AGAIN_HINT
            )
        if length > _MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: its header has {length} bytes; the limit is {_MAX_HEADER_BYTES}")
        header = file.read(length)
    try:
        content = json.loads(header, object_pairs_hook=_reject_duplicates)
        intact = is_intact(path, content, length)
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not valid JSON: {error}", _FETCH_AGAIN_HINT) from None
    if not intact:
        raise CheckpointError(f"{path} is damaged: its contents do not match their SHA-256", _FETCH_AGAIN_HINT)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return values


def _read_torch_file(path: Path) -> ModelFile:
    """Read all tensors of a PyTorch file.

    A file that needs code to run is rejected; there is no fallback.
    """
    _refuse_programs(path)
    try:
        # By its contents, whatever its name. torch's warnings are about formats that are rejected
        # or harmless here.
        with open_file(path, follow_links=True) as file, warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        code_match = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        problem = f"names code, {code_match[1]}" if code_match else "holds more than tensors, or is damaged"
        raise CheckpointError(
            f"{path} {problem}; dnntrain does not load it, because that would run code from the file",
            "if you trust its origin, load it with torch and save `model.state_dict()`",
        ) from None
    except Exception as error:
        first_line = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {first_line}", _FETCH_AGAIN_HINT) from None
    tensors = _extract_state_dict(path, content)
    return ModelFile(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__)


def _refuse_programs(path: Path) -> None:
    """Reject TorchScript and exported programs, which are zip files too, but hold code."""
    if read_first_bytes(path)[:2] != b"PK":
        return
    try:
        with _wrap_read_errors(path), zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", _FETCH_AGAIN_HINT) from None
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a file of weights",
            "save `model.state_dict()` of the model it was made from",
        )
    if "archive_format" in inner and "data.pkl" not in inner:
        raise CheckpointError(
            f"{path} is an exported program (.pt2), not a file of weights", "export its state_dict instead"
        )


def _extract_state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the mapping of names to tensors in the content of a PyTorch file."""
    for key in _STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds {_describe_type(content)}, not a state_dict", "save `model.state_dict()`")
    bad_names = [name for name, value in content.items() if not (isinstance(name, str) and _is_dense(value))]
    if bad_names:
        name_list = ", ".join(repr(name)[:80] for name in bad_names[:5])
        raise CheckpointError(
            f"{path} is not a state_dict: "
            f"{len(bad_names)} of its {len(content)} entries are not dense tensors: {name_list}",
            f"save `model.state_dict()`, by itself or under one of {', '.join(_STATE_DICT_KEYS)}",
        )
    return dict(content)


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized and not value.is_meta


def _describe_type(content: Any) -> str:
    return "an empty mapping" if isinstance(content, Mapping) else f"a {type(content).__name__}"
