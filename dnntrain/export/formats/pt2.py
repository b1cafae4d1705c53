"""`format=pt2`: the program that torch.export traces. A .pt2 file is code: it is loaded only where its checksum is known."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import Format, Runner, Source, model_file
from dnntrain.export.manifest import EMBEDDED, Card

FILE = "model.pt2"

#: What torch.export notes about the source of each node; larger than the weights of a small network.
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def write(source: Source, folder: Path) -> dict[str, Any]:
    """model.pt2, with the card inside."""
    details = {"runtime": source.runtime}
    save(traced(source.model, source.images), replace(source.card, details=details), folder)
    return details


def load(place: Path, card: Card, device: str) -> Runner:
    """The program, as `runtime` in its details says: run operator by operator or compiled by Inductor, in float32 or bfloat16."""
    module = opened(model_file(place, FILE), device)
    mode, _, number = str(card.details.get("runtime", "eager")).partition("_")
    if mode == "compiled":
        from dnntrain.export.compiled import Compiled

        return Compiled(module, device, torch.bfloat16 if number == "bf16" else None)

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=number == "bf16"):
            found: torch.Tensor = module(images.to(device))
        return found.float()

    return run


def traced(model: nn.Module, images: torch.Tensor, strict: bool = False) -> torch.export.ExportedProgram:
    """The program of `model` for any number of images. Raises ConfigError where it cannot be traced.

    `strict` traces Python's own code, and only so: integer quantisation finds its patterns in such programs alone. Else both ways are
    tried: each takes models that the other refuses.
    """
    failure: Exception | None = None
    for way in (True,) if strict else (True, False):
        try:
            with torch.no_grad():
                return torch.export.export(
                    model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=way
                )
        except Exception as error:  # tracing runs the model's own code, which raises whatever it likes
            failure = failure or error
    assert failure is not None
    raise ConfigError(
        f"the model cannot be traced by torch.export: {_first_line(failure)}", "use format=safetensors"
    ) from failure


def save(program: torch.export.ExportedProgram, card: Card, folder: Path) -> None:
    """Writes `program` as model.pt2, with the card inside and without notes on its source."""
    for node in program.graph.nodes:
        for name in _ORIGINS:
            node.meta.pop(name, None)
    program._example_inputs = None
    torch.export.save(program, folder / FILE, extra_files={EMBEDDED: card.text()})


def opened(path: Path, device: str = "cpu") -> nn.Module:
    """The module of a .pt2 file that is known to be trusted. Raises CheckpointError where it is damaged."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # it logs what it then raises
        program = torch.export.load(path)
    except Exception as error:  # torch's reader raises whatever it stumbles over in damaged bytes
        raise CheckpointError(
            f"{path} cannot be read as a program of torch.export: {_first_line(error)}",
            "export it again with: dnntrain export RUN format=pt2",
        ) from None
    finally:
        logger.setLevel(before)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


FORMAT = Format(
    "pt2",
    "a program of torch.export",
    write,
    load,
    program=True,
    suffix=".pt2",
    devices=("cpu", "cuda", "mps"),
)
