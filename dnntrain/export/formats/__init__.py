"""The formats: one file each, with a constant `FORMAT`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnntrain.errors import ConfigError, did_you_mean
from dnntrain.export.card import Card
from dnntrain.quant.post_training import PostTraining

NAMES = ("safetensors", "pt2", "onnx", "onnx_int8", "pt2_int8", "aoti")

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """What is exported.

    model        in eval mode, float32, on the CPU
    card         its description; `format` is set by who writes
    images       [2, channels, height, width] real images, normalised, to trace with
    calibration  batches of training images, normalised; empty where the format needs none
    quant        how to quantise
    runtime      how a program is to be run: eager, eager_bf16, compiled, or compiled_bf16
    """

    model: nn.Module
    card: Card
    images: Tensor
    calibration: Iterable[Tensor] = ()
    quant: PostTraining | None = None
    runtime: str = "eager"


@dataclass(frozen=True)
class Format:
    """One portable form.

    write     (source, folder) → details for the manifest; fills `folder` with files
    load      (folder or model file, card, device) → function of images [n, c, h, w] giving logits [n, classes], for any n
    program   true where the file is code, which runs when it is loaded
    exact     true where the numbers are those of the source but for rounding
    """

    name: str
    doc: str
    write: Callable[[Source, Path], dict[str, Any]]
    load: Callable[[Path, Card, str], Runner]
    program: bool = False
    exact: bool = True
    suffix: str = ""
    requires: tuple[str, ...] = field(default=())


def model_file(place: Path, name: str) -> Path:
    """The model file of an export that was named by its folder, or by a file of any name."""
    return place / name if place.is_dir() else place


def find(name: str) -> Format:
    """The format called `name`. Raises ConfigError with the nearest, or what to use in its place."""
    if name in ("torchscript", "jit", "pt"):
        raise ConfigError(
            f"format={name} is refused: TorchScript is deprecated in torch and its files are code",
            "use format=pt2, which torch.export writes and torch.export.load reads, or format=onnx",
        )
    if name not in (*NAMES, "auto"):
        raise ConfigError(f"format={name} is none of {', '.join(NAMES)}, auto", did_you_mean(name, [*NAMES, "auto"]))
    found: Format = importlib.import_module(f"dnntrain.export.formats.{name}").FORMAT
    return found


def check_installed(found: Format) -> None:
    """Raises ConfigError where a package that the format needs is missing."""
    from importlib.util import find_spec

    missing = [name for name in found.requires if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format={found.name} needs {', '.join(missing)}", "run: pip install 'dnntrain[onnx]', or use format=pt2"
        )
