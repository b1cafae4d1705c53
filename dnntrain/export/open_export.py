"""Open an export: check it, and return its manifest and its model as a function."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export import onnx_files
from dnntrain.export.formats import Runner, check_installed, get_format
from dnntrain.export.manifest import EMBEDDED_NAME, MANIFEST_NAME, Manifest, parse_manifest, read_manifest, verify_files
from dnntrain.export.options import read_fixed_batch, run_in_fixed_batches
from dnntrain.export.rescale import standardize_outputs


@dataclass(frozen=True)
class ExportHandle:
    """A checked export: its folder and manifest, and the model file if a file was given."""

    folder: Path
    manifest: Manifest
    file: Path | None = None

    @property
    def is_program(self) -> bool:
        """Whether the export, or one of those inside it, is code that runs when it is loaded."""
        export_format = get_format(self.manifest.format)
        parts = export_format.read_parts(self.folder, self.manifest).values()
        return export_format.is_program or any(get_format(part.format).is_program for part in parts)

    def check_trust(self, trust: bool) -> None:
        """Raise CheckpointError if the export is a program that nobody trusts.

        A checksum beside a program does not say who wrote it.
        """
        if not trust and self.is_program:
            raise CheckpointError(
                f"{self.file or self.folder} is a program (--format {self.manifest.format}): loading it runs its code",
                "if you trust its origin, add --trust; --format onnx, openvino and safetensors are data and need no trust",
            )

    def load(self, device: str, *, trust: bool) -> Runner:
        """Return the model as a function of inputs [n, …], whose outputs are those of the network.

        This runs the code of the export if its format is a program, which needs `trust`.
        """
        self.check_trust(trust)
        export_format = get_format(self.manifest.format)
        check_installed(export_format)
        run = export_format.load(self.file or self.folder, self.manifest, device)
        batch = read_fixed_batch(self.manifest.details, self.folder)
        run = run if batch is None else run_in_fixed_batches(run, batch)
        return run if export_format.builds_model else standardize_outputs(run, self.manifest.spec.output)


class RunnerModule(nn.Module):
    """A module that calls a runner."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self._run = run

    def forward(self, inputs: Tensor) -> Tensor:
        return self._run(inputs)


def open_export(path: Path) -> ExportHandle:
    """Open the export `path`, a folder or a model file, without running its code.

    Every file is compared with its checksum in manifest.json. An .onnx or .pt2 file without a
    manifest beside it is described by the manifest inside it. Raises CheckpointError, or
    ConfigError if there is no export.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder)
        if path.is_dir() or path.name in manifest.files:
            _check_listed(folder, manifest)
            verify_files(folder, manifest)
            return ExportHandle(folder, manifest)
    if path.is_dir() or not path.is_file():
        raise ConfigError(
            f"{path} is not an export: it has no {MANIFEST_NAME}", "as in: dnntrain export RUN --format onnx"
        )
    if path.suffix == ".onnx":
        return ExportHandle(folder, parse_manifest(onnx_files.read_metadata(path, EMBEDDED_NAME), path), path)
    if path.suffix == ".pt2":
        return ExportHandle(folder, _read_embedded_manifest(path), path)
    raise CheckpointError(
        f"{path}: no {MANIFEST_NAME} beside it describes the file", "name the folder that dnntrain export wrote"
    )


def _read_embedded_manifest(path: Path) -> Manifest:
    """Return the manifest inside a .pt2 archive without running its code.

    The archive may come from a stranger: of compressed files, a small one may have many gigabytes.
    Raises CheckpointError for such an archive, and for one that is damaged or has no manifest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path)
            if (damaged_name := archive.testzip()) is not None:
                raise CheckpointError(
                    f"{path} is damaged: {damaged_name} does not match its checksum", "export it again"
                )
            name = next((name for name in archive.namelist() if name.endswith(EMBEDDED_NAME)), None)
            if name is not None:
                return parse_manifest(archive.read(name), path)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "export it again: dnntrain export RUN") from None
    raise CheckpointError(
        f"{path} was not written by dnntrain: it has no description", "dnntrain export RUN --format pt2"
    )


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError if files of the archive are compressed, or larger together than the archive."""
    entries = archive.infolist()
    if (
        any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        or sum(entry.file_size for entry in entries) > path.stat().st_size
    ):
        raise CheckpointError(
            f"{path} was not written by dnntrain: files inside it are compressed", "dnntrain export RUN --format pt2"
        )


def _check_listed(folder: Path, manifest: Manifest) -> None:
    """Check that the manifest has a checksum of each file that the format reads."""
    missing = [name for name in get_format(manifest.format).files if name not in manifest.files]
    if missing or not manifest.files:
        raise CheckpointError(
            f"{folder / MANIFEST_NAME} has no checksum of {', '.join(missing) or 'any file'}",
            "export it again with: dnntrain export RUN",
        )
