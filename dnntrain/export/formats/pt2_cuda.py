"""`--format pt2_cuda`: a program of torch.export whose linear layers torchao quantized for a GPU.

Inductor compiles it when it is loaded.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant.float8 import Float8, convert_to_float8, is_convertible
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.compiled import CompiledModel
from dnntrain.export.formats import (
    ExportFormat,
    ExportRequest,
    Runner,
    detect_hardware,
    resolve_device,
    resolve_model_file,
)
from dnntrain.export.formats.pt2 import FILE_NAME, load_program, save_program, trace_model
from dnntrain.export.manifest import Manifest
from dnntrain.export.op_coverage import check_share, measure_torch_coverage


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.pt2; return its operator census.

    Raises CheckpointError if too little of it ran in float8.
    """
    device = resolve_device(FORMAT, str(source.manifest.config.get("device", "auto")))
    check_device(device)
    return write_on_device(source, folder, device)


def write_on_device(source: ExportRequest, folder: Path, device: str) -> dict[str, Any]:
    """Write the export for `device`, without choosing another device."""
    options = source.quant
    assert options is not None
    program = trace_quantized_model(
        convert_to_float8(source.model, options.granularity, device), source.inputs.to(device)
    )
    save_program(program, source.manifest, folder)
    coverage = measure_torch_coverage(make_runner(folder, device), source.inputs)
    check_share(coverage, "fp8", options.min_quantized_fraction, FORMAT.name)
    linear_layers = [
        module for module in source.model.modules() if isinstance(module, nn.Linear) and is_convertible(module)
    ]
    weights = sum(parameter.numel() for parameter in source.model.parameters())
    return {
        "census": coverage.as_json(),
        "float8_weights": sum(module.weight.numel() for module in linear_layers) / weights,
    }


def trace_quantized_model(model: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """Return the program of a quantized model for inputs [n, …] in bfloat16.

    Raises CheckpointError if the model cannot be exported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trace_model(model, inputs.bfloat16())
    except ConfigError as error:
        raise CheckpointError(
            f"torchao's weights cannot be exported: {error.message}", "use quant=int8_dynamic"
        ) from error


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the program on the GPU `device` and compile it with Inductor.

    Raises ConfigError if the GPU does not compute in float8.
    """
    check_device(device)
    return make_runner(export_path, device)


def make_runner(export_path: Path, device: str) -> Runner:
    """Return the program as a function of inputs of any precision that returns float32."""
    import torchao.quantization  # noqa: F401  # whose classes the weights are of

    compiled_model = CompiledModel(load_program(resolve_model_file(export_path, FILE_NAME), device), device)
    return lambda inputs: compiled_model(inputs.bfloat16())


def check_device(device: str) -> None:
    """Check that `device` computes in float8. Raises ConfigError if not."""
    if refusal := Float8().find_hardware_refusal(detect_hardware(device)):
        raise ConfigError(f"--format {FORMAT.name} {refusal.reason}", refusal.hint)


FORMAT = ExportFormat(
    "pt2_cuda",
    "8-bit floating point on a GPU",
    write,
    load,
    files=(FILE_NAME,),
    is_program=True,
    is_exact=False,
    suffix=".pt2",
    devices=("cuda",),
)
