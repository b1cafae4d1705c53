"""Opens an export: checks it, and gives its card and the function that it is."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export import onnx_files
from dnntrain.export.formats import Runner, check_installed, find
from dnntrain.export.manifest import EMBEDDED, MANIFEST, Card, parse, read_manifest, verify

_SUFFIXES = (".onnx", ".pt2", ".safetensors")


@dataclass(frozen=True)
class Opened:
    """An export that was checked: its folder, its card, and where it was named by a file, that file."""

    folder: Path
    card: Card
    file: Path | None = None

    def load(self, device: str) -> Runner:
        """The model as a function of images [n, channels, height, width]. Runs its code, where the format is a program."""
        found = find(self.card.format)
        check_installed(found)
        return found.load(self.file or self.folder, self.card, device)


class RunnerModule(nn.Module):
    """A runner where a module is asked for."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self._run = run

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images)


def is_export(path: Path) -> bool:
    """True for the folder of an export, and for a model file."""
    return (path.is_dir() and (path / MANIFEST).is_file()) or (path.is_file() and path.suffix in _SUFFIXES)


def open_export(path: Path, trust: bool = False) -> Opened:
    """The export `path`: its folder, or its model file. No code of it has run yet.

    Every file is compared with its checksum in manifest.json. A .pt2 file is a program: without a manifest that has its checksum it
    is refused, unless `trust`. An .onnx file is data, and may stand alone. Raises CheckpointError, or ConfigError where there is no
    export.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file():
        card = read_manifest(folder)
        if path.is_dir() or path.name in card.files:
            if not trust:
                verify(folder, card)
            found = find(card.format)
            if found.program and not trust and not card.files:
                raise CheckpointError(f"{path}: the manifest lists no file", _TRUST)
            return Opened(folder, card)
    if path.is_dir() or not path.is_file():
        raise ConfigError(f"{path} is no export: it has no {MANIFEST}", "as in: dnntrain export RUN format=onnx")
    if path.suffix == ".onnx":
        return Opened(folder, parse(onnx_files.card_text(path, EMBEDDED), path), path)
    if path.suffix == ".pt2":
        if not trust:
            raise CheckpointError(f"{path} is a program, and no {MANIFEST} beside it has its checksum", _TRUST)
        return Opened(folder, _embedded(path), path)
    raise CheckpointError(
        f"{path}: no {MANIFEST} beside it describes the file", "name the folder that dnntrain export wrote"
    )


def _embedded(path: Path) -> Card:
    """The card inside a .pt2 archive, read without running it."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(EMBEDDED)), None)
            if name is not None:
                return parse(archive.read(name), path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "export it again: dnntrain export RUN") from None
    raise CheckpointError(
        f"{path} was not written by dnntrain: it has no description", "dnntrain export RUN format=pt2"
    )


_TRUST = "if you trust where it came from, add trust=true: loading it runs its code"
