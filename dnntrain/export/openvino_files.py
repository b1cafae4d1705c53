"""Read, write and run OpenVINO's model files: the graph in XML, and its weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError, ConfigError, DnntrainError
from dnntrain.export.formats import ExportRequest, Runner, resolve_model_file
from dnntrain.export.formats.onnx import export_onnx

MODEL_NAME, WEIGHTS_NAME = "model.xml", "model.bin"


def import_openvino() -> Any:
    """Return the module openvino, without the package that sends how it is used to its maker."""
    return import_package("openvino")


def import_package(name: str) -> Any:
    """Return the module of openvino or nncf. Raises ConfigError if it is damaged."""
    block_telemetry()
    try:
        return import_module(name)
    except Exception as error:  # a damaged package may raise anything
        raise ConfigError(
            f"{name} is installed, but cannot be imported: {_get_reason(error)}",
            "run: pip install --force-reinstall 'dnntrain[openvino]', or use --format onnx",
        ) from error


def block_telemetry() -> None:
    """Make the import of openvino_telemetry fail.

    openvino and nncf then replace it by functions that do nothing. nncf would send an event for each
    quantization, without a question.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def convert_model(source: ExportRequest, folder: Path) -> Any:
    """Return the float network as an OpenVINO model for any number of examples."""
    path = folder / ".float.onnx"
    export_onnx(source, path)
    with name_openvino_errors("the model cannot be converted to OpenVINO", "use --format onnx"):
        model = import_openvino().Core().read_model(str(path))
    path.unlink()
    return model


def save_model(model: Any, folder: Path, batch: int | None) -> None:
    """Write `model` into `folder`, for `batch` examples or any number."""
    with name_openvino_errors("OpenVINO cannot write the model", "use --format onnx"):
        if batch is not None:
            model.reshape([batch, *model.input().partial_shape[1:]])
        import_openvino().save_model(model, str(folder / MODEL_NAME), compress_to_fp16=False)


def compile_model(model: Any, precision: str = "f32") -> Any:
    """Return `model` compiled for the processor, with as many threads as torch has.

    precision   f32, or bf16 if the processor has it
    """
    hints = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    return import_openvino().Core().compile_model(model, "CPU", hints)


def _get_reason(error: Exception) -> str:
    """Return the last line of an error: the lines before name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]


@contextmanager
def name_openvino_errors(problem: str, hint: str) -> Iterator[None]:
    """Raise a CheckpointError with the problem and its reason for any error of OpenVINO and NNCF."""
    try:
        yield
    except DnntrainError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError, and NNCF several classes without a common one
        raise CheckpointError(f"{problem}: {_get_reason(error)}", hint) from error


def make_runner(path: Path, format_name: str, precision: str = "f32") -> Runner:
    """Return the model in `path`, its folder or its graph, as a function.

    Raises CheckpointError if OpenVINO cannot read it.
    """
    model_path = resolve_model_file(path, MODEL_NAME)
    hint = f"export it again with: dnntrain export RUN --format {format_name}"
    with name_openvino_errors(f"{model_path} cannot be read by OpenVINO", hint):
        model = import_openvino().Core().read_model(str(model_path), str(model_path.with_suffix(".bin")))
        request = compile_model(model, precision).create_infer_request()

    def run(inputs: Tensor) -> Tensor:
        outputs = request.infer([inputs.contiguous().cpu().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0].copy())

    return run
