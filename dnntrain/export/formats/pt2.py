"""`--format pt2`: the program that torch.export traces.

A .pt2 file is code: it is loaded only if its checksum is known.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner, resolve_model_file
from dnntrain.export.manifest import EMBEDDED_NAME, Manifest
from dnntrain.utils.explain_error import get_first_line
from dnntrain.utils.hardware import get_device_type

FILE_NAME = "model.pt2"

#: The source notes that torch.export adds to each node; larger than the weights of a small
#: network.
_SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.pt2, with the manifest inside."""
    details = {"runtime": source.runtime}
    manifest = replace(source.manifest, details={**source.manifest.details, **details})
    is_fixed = source.options.batch is not None
    save_program(trace_model(source.model, source.inputs, is_fixed=is_fixed), manifest, folder)
    return details


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Load the program to run as the manifest's `runtime` says.

    It runs operator by operator or compiled by Inductor, in float32 or bfloat16.
    """
    module = load_program(resolve_model_file(export_path, FILE_NAME), device)
    mode, _, precision = str(manifest.details.get("runtime", "eager")).partition("_")
    if mode == "compiled":
        from dnntrain.export.compiled import CompiledModel

        return CompiledModel(module, device, torch.bfloat16 if precision == "bf16" else None)

    def run(inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(get_device_type(device), torch.bfloat16, enabled=precision == "bf16"):
            outputs: torch.Tensor = module(inputs.to(device))
        return outputs.float()

    return run


def trace_model(
    model: nn.Module, inputs: torch.Tensor, strict: bool = False, is_fixed: bool = False
) -> torch.export.ExportedProgram:
    """Return the program of `model` for any number of examples, or for that of `inputs` if `is_fixed`.

    `strict` traces Python's own code only: integer quantization finds its patterns in such
    programs. Otherwise both ways are tried, because each traces models that the other cannot.
    Raises ConfigError if the model cannot be traced.
    """
    failure: Exception | None = None
    shapes = None if is_fixed else ({0: torch.export.Dim.DYNAMIC},)
    for strict_mode in (True,) if strict else (True, False):
        try:
            with torch.no_grad():
                return torch.export.export(model, (inputs,), dynamic_shapes=shapes, strict=strict_mode)
        except Exception as error:  # tracing runs the model's own code, which may raise anything
            failure = failure or error
    assert failure is not None
    raise ConfigError(
        f"the model cannot be traced by torch.export: {get_first_line(failure)}", "use --format safetensors"
    ) from failure


def save_program(program: torch.export.ExportedProgram, manifest: Manifest, folder: Path) -> None:
    """Write `program` as model.pt2, with the manifest inside and without notes on its source."""
    for node in program.graph.nodes:
        for name in _SOURCE_NOTES:
            node.meta.pop(name, None)
    program._example_inputs = None
    torch.export.save(program, folder / FILE_NAME, extra_files={EMBEDDED_NAME: manifest.to_text()})


def load_program(path: Path, device: str = "cpu") -> nn.Module:
    """Load the module of a trusted .pt2 file. Raises CheckpointError if it is damaged."""
    logger = logging.getLogger("torch.export")
    previous_level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # it logs its errors and raises them as well
        with warnings.catch_warnings():
            # torch 2.11 reads the weights in place, which nobody writes.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            program = torch.export.load(path)
    except Exception as error:  # torch's reader raises various exceptions for damaged bytes
        raise CheckpointError(
            f"{path} cannot be read as a program of torch.export: {get_first_line(error)}",
            "export it again with: dnntrain export RUN --format pt2",
        ) from None
    finally:
        logger.setLevel(previous_level)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


FORMAT = ExportFormat(
    "pt2",
    "a program of torch.export",
    write,
    load,
    files=(FILE_NAME,),
    is_program=True,
    suffix=".pt2",
    options=("half", "batch"),
    devices=("cpu", "cuda", "mps"),
)
