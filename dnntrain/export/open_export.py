"""Open an export: check it, and return its manifest and its model as a function."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export import onnx_files
from dnntrain.export.formats import Runner, check_installed, get_format
from dnntrain.export.manifest import EMBEDDED_NAME, MANIFEST_NAME, Manifest, parse_manifest, read_manifest, verify_files

_SUFFIXES = (".onnx", ".pt2", ".safetensors")


@dataclass(frozen=True)
class ExportHandle:
    """A checked export: its folder and manifest, and the model file if a file was given."""

    folder: Path
    manifest: Manifest
    file: Path | None = None

    def load(self, device: str) -> Runner:
        """Return the model as a function of inputs [n, …].

        This runs the code of the export if its format is a program.
        """
        export_format = get_format(self.manifest.format)
        check_installed(export_format)
        return export_format.load(self.file or self.folder, self.manifest, device)


class RunnerModule(nn.Module):
    """A module that calls a runner."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self._run = run

    def forward(self, inputs: Tensor) -> Tensor:
        return self._run(inputs)


def is_export(path: Path) -> bool:
    """Return whether `path` is the folder of an export, or a model file."""
    return (path.is_dir() and (path / MANIFEST_NAME).is_file()) or (path.is_file() and path.suffix in _SUFFIXES)


def open_export(path: Path, trust: bool = False) -> ExportHandle:
    """Open the export `path`, a folder or a model file, without running its code.

    Every file is compared with its checksum in manifest.json. A .pt2 file is a program: without a
    manifest that has its checksum it is not opened, unless `trust`. An .onnx file is data and needs
    no manifest. Raises CheckpointError, or ConfigError if there is no export.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder)
        if path.is_dir() or path.name in manifest.files:
            if not trust:
                verify_files(folder, manifest)
            export_format = get_format(manifest.format)
            if export_format.is_program and not trust and not manifest.files:
                raise CheckpointError(f"{path}: the manifest lists no file", _TRUST_HINT)
            return ExportHandle(folder, manifest)
    if path.is_dir() or not path.is_file():
        raise ConfigError(
            f"{path} is not an export: it has no {MANIFEST_NAME}", "as in: dnntrain export RUN --format onnx"
        )
    if path.suffix == ".onnx":
        return ExportHandle(folder, parse_manifest(onnx_files.read_metadata(path, EMBEDDED_NAME), path), path)
    if path.suffix == ".pt2":
        if not trust:
            raise CheckpointError(
                f"{path} is a program, and no {MANIFEST_NAME} beside it has its checksum", _TRUST_HINT
            )
        return ExportHandle(folder, _read_embedded_manifest(path), path)
    raise CheckpointError(
        f"{path}: no {MANIFEST_NAME} beside it describes the file", "name the folder that dnntrain export wrote"
    )


def _read_embedded_manifest(path: Path) -> Manifest:
    """Return the manifest inside a .pt2 archive without running its code."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(EMBEDDED_NAME)), None)
            if name is not None:
                return parse_manifest(archive.read(name), path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "export it again: dnntrain export RUN") from None
    raise CheckpointError(
        f"{path} was not written by dnntrain: it has no description", "dnntrain export RUN --format pt2"
    )


_TRUST_HINT = "if you trust where it came from, add --trust: loading it runs its code"
