"""`format=pt2_cuda`: a program of torch.export whose linear layers torchao quantised for a GPU; Inductor compiles it when it is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant.float8 import Float8, converted, takes
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.compiled import Compiled
from dnntrain.export.formats import Format, Runner, Source, device_of, hardware_of, model_file
from dnntrain.export.formats.pt2 import FILE, opened, save, traced
from dnntrain.export.manifest import Card
from dnntrain.export.op_coverage import check_share, torch_census


def write(source: Source, folder: Path) -> dict[str, Any]:
    """model.pt2, and the census of what ran. Raises CheckpointError where too little ran in float8."""
    device = device_of(FORMAT, str(source.card.config.get("device", "auto")))
    check(device)
    return written(source, folder, device)


def written(source: Source, folder: Path, device: str) -> dict[str, Any]:
    """As `write`, for `device` as it is."""
    knobs = source.quant
    assert isinstance(knobs, Float8)
    program = traced_program(converted(source.model, knobs.granularity, device), source.images.to(device))
    save(program, source.card, folder)
    census = torch_census(running(folder, device), source.images)
    check_share(census, "fp8", knobs.min_share, FORMAT.name)
    modules = [module for module in source.model.modules() if isinstance(module, nn.Linear) and takes(module)]
    weights = sum(parameter.numel() for parameter in source.model.parameters())
    return {"census": census.as_json(), "float8_weights": sum(module.weight.numel() for module in modules) / weights}


def traced_program(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """The program of a quantised model for images [n, channels, height, width] in bfloat16. Raises CheckpointError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return traced(model, images.bfloat16())
    except ConfigError as error:
        raise CheckpointError(
            f"torchao's weights cannot be exported: {error.message}", "use quant=int8_dynamic"
        ) from error


def load(place: Path, card: Card, device: str) -> Runner:
    """The program on the GPU `device`, compiled by Inductor. Raises ConfigError where the GPU does not compute in float8."""
    check(device)
    return running(place, device)


def running(place: Path, device: str) -> Runner:
    """The program as a function of images of any precision giving float32."""
    import torchao.quantization  # noqa: F401  # whose classes the weights are of

    compiled = Compiled(opened(model_file(place, FILE), device), device)
    return lambda images: compiled(images.bfloat16())


def check(device: str) -> None:
    """Raises ConfigError where `device` does not compute in float8."""
    if refused := Float8().refusal(hardware_of(device)):
        reason, fix = refused
        raise ConfigError(f"format={FORMAT.name} {reason}", fix)


FORMAT = Format(
    "pt2_cuda",
    "8-bit floating point on a GPU",
    write,
    load,
    program=True,
    exact=False,
    suffix=".pt2",
    devices=("cuda",),
)
