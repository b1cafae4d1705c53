"""`format=aoti`: machine code that AOTInductor compiles for this processor; loads without compiling."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import Format, Runner, Source, model_file
from dnntrain.export.formats.pt2 import traced
from dnntrain.export.manifest import Card
from dnntrain.export.onednn import onednn_census
from dnntrain.export.op_coverage import torch_census
from dnntrain.utils.hardware import detect

FILE = "model_aoti.pt2"


def write(source: Source, folder: Path) -> dict[str, Any]:
    """model_aoti.pt2, with frozen weights, the machine that it is for, and the census of what ran."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ConfigError("format=aoti compiles C++, and there is no compiler", "install g++, or use format=pt2")
    from torch import _inductor as inductor

    program = traced(source.model, source.images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        inductor.aoti_compile_and_package(program, package_path=str(folder / FILE), inductor_configs={"freezing": True})
    details = {"machine": machine()}
    images = source.images
    census = onednn_census(
        load(folder, replace(source.card, details=details), "cpu"), images, torch_census(source.model, images)
    )
    return {"census": census.as_json(), **details}


def machine() -> dict[str, Any]:
    """What the code depends on."""
    return {"torch": torch.__version__, "features": list(detect("cpu").cpu_features)}


def load(place: Path, card: Card, device: str) -> Runner:
    """The compiled code. Raises CheckpointError where it is for another processor or another torch."""
    made, here = dict(card.details.get("machine", {})), machine()
    missing = sorted(set(made.get("features", [])) - set(here["features"]))
    if made.get("torch") != here["torch"] or missing:
        found = f"a processor with {', '.join(missing)}" if missing else f"torch {made.get('torch')}"
        raise CheckpointError(f"{place} was compiled for {found}", "export it again on this machine, or use format=pt2")
    from torch import _inductor as inductor

    path = model_file(place, FILE)
    try:
        compiled = inductor.aoti_load_package(str(path))
    except Exception as error:  # the loader raises whatever it stumbles over
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be loaded: {line[:300]}", "export it again") from None

    def run(images: Tensor) -> Tensor:
        found: Tensor = compiled(images.contiguous().cpu())
        return found

    return run


FORMAT = Format("aoti", "machine code for this processor", write, load, program=True, suffix=".pt2")
