"""`--format onnx`: one file for ONNX Runtime and others.

The weights are inside, and the manifest is in its metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dnntrain.choices.quant._backends import ONNX_PACKAGES
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner, resolve_model_file
from dnntrain.export.manifest import EMBEDDED_NAME, Manifest
from dnntrain.export.onnx_files import (
    check_external_data,
    check_file_digest,
    check_known_opset,
    check_opset,
    open_session,
    write_metadata,
)
from dnntrain.utils.explain_error import get_first_line

FILE_NAME = "model.onnx"


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.onnx, for any number of examples or a fixed one."""
    export_onnx(source, folder / FILE_NAME, source.options.batch)
    write_metadata(folder / FILE_NAME, EMBEDDED_NAME, source.manifest.to_text())
    return {}


def export_onnx(source: ExportRequest, path: Path, batch: int | None = None) -> None:
    """Write the float model to `path`, for `batch` examples or any number.

    Raises ConfigError if it cannot be traced, or if its operators do not exist in the opset.
    """
    import logging
    import warnings

    check_known_opset(source.options.opset)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in ("torch.onnx", "onnxscript"):
                logging.getLogger(name).setLevel(logging.ERROR)
            program = torch.onnx.export(
                source.model,
                (source.inputs,),
                dynamo=True,
                external_data=False,
                input_names=[source.manifest.spec.inputs.name],
                output_names=[source.manifest.spec.output.name],
                dynamic_shapes=({0: "batch"},) if batch is None else None,
                opset_version=source.options.opset,
                verbose=False,
            )
    except Exception as error:  # the exporter runs the model's own code, which may raise anything
        reason = get_first_line(error)
        raise ConfigError(f"the model cannot be exported to ONNX: {reason}", "use --format safetensors") from error
    if program is None:
        raise CheckpointError("torch.onnx.export returned no program", "use --format pt2")
    program.save(str(path), external_data=False)
    check_opset(path, source.options.opset)


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the model into ONNX Runtime, on the CPU."""
    return make_runner(resolve_model_file(export_path, FILE_NAME))


def make_runner(path: Path) -> Runner:
    """Return the model file `path` as a function. Weights outside its folder are not read."""
    check_external_data(path)
    check_file_digest(path)
    ort_session = open_session(path)
    name = ort_session.get_inputs()[0].name

    def run(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(ort_session.run(None, {name: inputs.contiguous().cpu().numpy()})[0])

    return run


FORMAT = ExportFormat(
    "onnx",
    "one file for ONNX Runtime",
    write,
    load,
    files=(FILE_NAME,),
    suffix=".onnx",
    options=("opset", "half", "batch"),
    packages=ONNX_PACKAGES,
)
