"""Compute the keys that name the runs of stages by their content. Imports no torch.

    key = SHA-256 of (the stage's configuration without paths of runs, the keys of its inputs,
                      the version of the code that computes, the files of code and data that it names)

A changed setting gives a new key to its stage and to every stage after it, and to no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from dnntrain import __version__
from dnntrain.checkpoint.digests import compute_file_digest
from dnntrain.config.conf_folder import PACKAGE_FOLDER
from dnntrain.config.digest import compute_digest
from dnntrain.utils.sealed_json import compute_json_digest

#: The packages that show, compare or start runs. The others decide what a run computes.
_OTHER_PACKAGES = frozenset(
    {"bench", "cli", "diff", "display", "pipeline", "prove", "report", "sweep", "tune", "__pycache__"}
)

#: The files of a run, a checkpoint or an export that tell its weights.
_WEIGHT_FILES = ("model.safetensors", "manifest.json")


@cache
def compute_code_digest() -> str:
    """Return the SHA-256 of the version and the source of the code that computes."""
    digest = hashlib.sha256(__version__.encode())
    packages = sorted(path for path in PACKAGE_FOLDER.glob("*/") if path.name not in _OTHER_PACKAGES)
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            digest.update(f"\0{path.relative_to(PACKAGE_FOLDER)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def compute_stage_key(config: Mapping[str, Any], inputs: Mapping[str, str], code: str) -> str:
    """Return the key of one run of a stage.

    config  its resolved configuration, without the paths of its inputs
    inputs  input → key of the run that it comes from
    code    digest of the code
    """
    files = dict(_digest_files(config, ""))
    return compute_json_digest({"config": compute_digest(config), "inputs": dict(inputs), "code": code, "files": files})


def _digest_files(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the digest of each file that a value of the configuration names.

    Any text that is the path of a file counts, so that no setting can be missed. Of a folder its weights
    count.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _digest_files(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _digest_files(item, f"{key}.{number}")
    elif isinstance(value, str) and value:
        # A text need not be a path: it may be too long, or name a user who does not exist.
        with suppress(OSError, RuntimeError, ValueError):
            path = Path(value).expanduser().absolute()
            for file in (path, *(path / name for name in _WEIGHT_FILES)):
                if file.is_file():
                    yield f"{key}{'' if file == path else f'/{file.name}'}", _digest_file(file)


@cache
def _digest_file(path: Path) -> str:
    """Return the digest of a file, which is read once for all stages."""
    return compute_file_digest(path)
