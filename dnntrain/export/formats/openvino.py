"""`--format openvino`: a graph and its weights for OpenVINO, in float32 or bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dnntrain.choices.quant._backends import OPENVINO_PACKAGES
from dnntrain.errors import ConfigError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner
from dnntrain.export.manifest import Manifest
from dnntrain.export.openvino_files import MODEL_NAME, WEIGHTS_NAME, convert_model, make_runner, save_model


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.xml and model.bin, in float32.

    Raises ConfigError if the model cannot be traced, or for a runtime of torch alone.
    """
    if source.runtime.startswith("compiled"):
        raise ConfigError(
            f"--runtime {source.runtime} does not support --format openvino: OpenVINO always compiles",
            f"use --runtime {source.runtime.replace('compiled', 'eager')}",
        )
    save_model(convert_model(source, folder), folder, source.options.batch)
    return {"runtime": source.runtime}


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the model to compute in float32, or in bfloat16 if the manifest's `runtime` says so."""
    is_bf16 = str(manifest.details.get("runtime", "")).endswith("bf16")
    return make_runner(export_path, "openvino", "bf16" if is_bf16 else "f32")


FORMAT = ExportFormat(
    "openvino",
    "a graph and its weights for OpenVINO",
    write,
    load,
    files=(MODEL_NAME, WEIGHTS_NAME),
    options=("batch",),
    packages=OPENVINO_PACKAGES,
)
