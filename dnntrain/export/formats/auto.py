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
    runners: dict[str, Runner] = {}
    choices = {int(batch): str(name) for batch, name in manifest.details["choices"].items()}
    for name in set(choices.values()):
        if f"{name}/{MANIFEST_NAME}" not in manifest.files:
            raise CheckpointError(f"{export_path}: the manifest does not list {name}", "export it again")
        inner_manifest = read_manifest(export_path / name)
        verify_files(export_path / name, inner_manifest)
        export_format = get_format(inner_manifest.format)
        check_installed(export_format)
        runners[name] = export_format.load(export_path / name, inner_manifest, device)

    def run(inputs: Tensor) -> Tensor:
        fitting_batches = [batch for batch in choices if batch <= len(inputs)] or [min(choices)]
        return runners[choices[max(fitting_batches)]](inputs)

    return run


FORMAT = ExportFormat("auto", "the fastest on this machine", write, load, is_program=True, is_exact=False)
