"""`--format auto`: the fastest formats on this machine, each for the batch sizes at which it won."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from dnntrain.errors import CheckpointError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner, check_installed, get_format
from dnntrain.export.manifest import MANIFEST_NAME, Manifest, read_manifest, verify_files


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Fail: `bench/fastest_export.py` measures the formats first and writes this one itself."""
    raise AssertionError("--format auto is a choice among exports")


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Return a function that gives each batch to the fastest format for its size.

    That is the winner at the largest measured batch size that is not larger, else at the smallest.
    """
    choices = _read_choices(export_path, manifest)
    runners: dict[str, Runner] = {}
    for name, part in read_parts(export_path, manifest).items():
        export_format = get_format(part.format)
        check_installed(export_format)
        runners[name] = export_format.load(export_path / name, part, device)

    def run(inputs: Tensor) -> Tensor:
        fitting_batches = [batch for batch in choices if batch <= len(inputs)] or [min(choices)]
        return runners[choices[max(fitting_batches)]](inputs)

    return run


def read_parts(folder: Path, manifest: Manifest) -> dict[str, Manifest]:
    """Return the manifests of the chosen exports by name, after a comparison with their checksums."""
    parts: dict[str, Manifest] = {}
    for name in sorted(set(_read_choices(folder, manifest).values())):
        if f"{name}/{MANIFEST_NAME}" not in manifest.files:
            raise CheckpointError(f"{folder}: the manifest does not list {name}", "export it again")
        part = read_manifest(folder / name)
        export_format = get_format(part.format)
        if export_format is FORMAT or export_format.builds_model:
            raise CheckpointError(f"{folder / name}: --format {part.format} cannot be part of --format auto")
        verify_files(folder / name, part)
        parts[name] = part
    return parts


def _read_choices(folder: Path, manifest: Manifest) -> dict[int, str]:
    """Return the name of the export for each measured batch size."""
    try:
        choices = {int(batch): str(name) for batch, name in manifest.details["choices"].items()}
    except (KeyError, ValueError, AttributeError):
        choices = {}
    if not choices:
        raise CheckpointError(
            f"{folder}: the manifest does not say which export is for which batch size", "export it again"
        )
    return choices


FORMAT = ExportFormat("auto", "the fastest on this machine", write, load, read_parts=read_parts, is_exact=False)
