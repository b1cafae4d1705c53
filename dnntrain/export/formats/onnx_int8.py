"""`--format onnx_int8`: the ONNX model, quantized by ONNX Runtime's own quantizer."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from dnntrain.choices.quant._backends import ONNX_PACKAGES
from dnntrain.choices.quant._int_modules import convert_to_integers
from dnntrain.errors import CheckpointError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner, resolve_model_file
from dnntrain.export.formats.onnx import export_onnx, make_runner
from dnntrain.export.manifest import EMBEDDED_NAME, Manifest
from dnntrain.export.onnx_files import check_opset, fix_batch, write_metadata
from dnntrain.export.onnx_quantizer import quantize_static
from dnntrain.export.op_coverage import check_share, measure_onnx_coverage
from dnntrain.export.silence import silence_output
from dnntrain.utils.explain_error import get_first_line
from dnntrain.utils.hardware import has_vnni

FILE_NAME = "model_int8.onnx"


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model_int8.onnx; return its operator census.

    Raises CheckpointError if too little of it ran in integers.
    """
    options: Any = source.quant
    if options.is_quantization_aware:
        export_onnx(replace(source, model=convert_to_integers(source.model)), folder / FILE_NAME)
    else:
        _quantize_onnx(source, folder)
    check_opset(folder / FILE_NAME, source.options.opset)
    if source.options.batch is not None:
        fix_batch(folder / FILE_NAME, source.options.batch)
    write_metadata(folder / FILE_NAME, EMBEDDED_NAME, source.manifest.to_text())
    coverage = measure_onnx_coverage(folder / FILE_NAME, source.inputs, source.options.batch)
    check_share(coverage, "int8", options.min_quantized_fraction, "onnx_int8")
    return {"census": coverage.as_json()}


def _quantize_onnx(source: ExportRequest, folder: Path) -> None:
    """Write the float model and quantize it with ONNX Runtime."""
    options: Any = source.quant
    float_path, prepared_path = folder / ".float.onnx", folder / ".prepared.onnx"
    export_onnx(source, float_path)
    with silence_output(hides_stderr=False):
        try:
            shapes = import_module("onnxruntime.quantization.shape_inference")
            shapes.quant_pre_process(str(float_path), str(prepared_path), skip_symbolic_shape=True)
            if options.needs_calibration:
                quantize_static(prepared_path, folder / FILE_NAME, options, source.calibration, not has_vnni())
            else:
                _quantize_dynamic(prepared_path, folder / FILE_NAME, options.per_channel)
        except Exception as error:  # ONNX Runtime has an exception for each way to fail, without a common one
            raise CheckpointError(
                f"ONNX Runtime cannot quantize this model: {get_first_line(error)}",
                "use --format pt2_int8, or --format onnx",
            ) from error
    float_path.unlink()
    prepared_path.unlink()


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the model into ONNX Runtime, on the CPU."""
    return make_runner(resolve_model_file(export_path, FILE_NAME))


def _quantize_dynamic(model_path: Path, target_path: Path, per_channel: bool) -> None:
    quantization: Any = import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(
        str(model_path),
        str(target_path),
        per_channel=per_channel,
        reduce_range=not has_vnni(),
        # ONNX Runtime's integer convolution takes unsigned weights only.
        weight_type=quantization.QuantType.QUInt8,
    )


FORMAT = ExportFormat(
    "onnx_int8",
    "8-bit integers in ONNX Runtime",
    write,
    load,
    files=(FILE_NAME,),
    is_exact=False,
    suffix=".onnx",
    options=("opset", "batch"),
    packages=ONNX_PACKAGES,
)
