"""`--format aoti`: machine code that AOTInductor compiles for this processor.

It loads without compiling.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner, resolve_model_file
from dnntrain.export.formats.pt2 import trace_model
from dnntrain.export.manifest import Manifest
from dnntrain.export.onednn import measure_onednn_coverage
from dnntrain.export.op_coverage import measure_torch_coverage
from dnntrain.utils.explain_error import get_first_line
from dnntrain.utils.hardware import probe_hardware

FILE_NAME = "model_aoti.pt2"


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model_aoti.pt2 with frozen weights; return its machine and its operator census."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ConfigError(
            "--format aoti needs a C++ compiler, and neither g++ nor clang++ was found",
            "install g++, or use --format pt2",
        )
    from torch import _inductor as inductor

    program = trace_model(source.model, source.inputs, is_fixed=source.options.batch is not None)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        inductor.aoti_compile_and_package(
            program, package_path=str(folder / FILE_NAME), inductor_configs={"freezing": True}
        )
    details = {"machine": describe_machine()}
    inputs = source.inputs
    coverage = measure_onednn_coverage(
        load(folder, replace(source.manifest, details=details), "cpu"),
        inputs,
        measure_torch_coverage(source.model, inputs),
    )
    return {"census": coverage.as_json(), **details}


def describe_machine() -> dict[str, Any]:
    """Describe the machine that the code depends on."""
    return {"torch": torch.__version__, "features": list(probe_hardware("cpu").cpu_features)}


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the compiled code.

    Raises CheckpointError if it was compiled for another processor or another torch.
    """
    saved_machine, this_machine = dict(manifest.details.get("machine", {})), describe_machine()
    missing = sorted(set(saved_machine.get("features", [])) - set(this_machine["features"]))
    if saved_machine.get("torch") != this_machine["torch"] or missing:
        requirement = f"a processor with {', '.join(missing)}" if missing else f"torch {saved_machine.get('torch')}"
        raise CheckpointError(
            f"{export_path} was compiled for {requirement}", "export it again on this machine, or use --format pt2"
        )
    from torch import _inductor as inductor

    path = resolve_model_file(export_path, FILE_NAME)
    try:
        package = inductor.aoti_load_package(str(path))
    except Exception as error:  # the loader raises various exceptions
        raise CheckpointError(f"{path} cannot be loaded: {get_first_line(error)}", "export it again") from None

    def run(inputs: Tensor) -> Tensor:
        outputs: Tensor = package(inputs.contiguous().cpu())
        return outputs

    return run


FORMAT = ExportFormat(
    "aoti",
    "machine code for this processor",
    write,
    load,
    files=(FILE_NAME,),
    is_program=True,
    suffix=".pt2",
    options=("batch",),
)
