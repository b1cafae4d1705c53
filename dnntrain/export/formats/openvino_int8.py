"""`--format openvino_int8`: the OpenVINO model, quantized by NNCF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dnntrain.choices.quant._backends import NNCF_PACKAGES
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner
from dnntrain.export.manifest import Manifest
from dnntrain.export.op_coverage import check_share
from dnntrain.export.openvino_coverage import measure_openvino_coverage
from dnntrain.export.openvino_files import MODEL_NAME, WEIGHTS_NAME, convert_model, make_runner, save_model
from dnntrain.export.openvino_quantizer import quantize_openvino


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.xml and model.bin; return their operator census.

    Raises CheckpointError if too little of it ran in integers.
    """
    options: Any = source.quant
    model = quantize_openvino(convert_model(source, folder), options, source.calibration)
    coverage = measure_openvino_coverage(model, source.inputs)
    check_share(coverage, "int8", options.min_quantized_fraction, "openvino_int8")
    save_model(model, folder, source.options.batch)
    return {"census": coverage.as_json()}


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the model; layers that are not quantized compute in float32."""
    return make_runner(export_path, "openvino_int8")


FORMAT = ExportFormat(
    "openvino_int8",
    "8-bit integers in OpenVINO",
    write,
    load,
    files=(MODEL_NAME, WEIGHTS_NAME),
    is_exact=False,
    options=("batch",),
    packages=NNCF_PACKAGES,
)
