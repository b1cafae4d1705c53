"""The export formats: one file each, with a constant `FORMAT`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._backends import Packages
from dnntrain.errors import ConfigError
from dnntrain.export.format_names import FORMAT_NAMES
from dnntrain.export.manifest import Manifest
from dnntrain.export.options import NO_OPTIONS, ExportOptions
from dnntrain.protocols import QuantChoice
from dnntrain.utils.hardware import Hardware, get_device_type, probe_hardware
from dnntrain.utils.suggest import did_you_mean

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExportRequest:
    """The model to export, with the data and the options of the export.

    model        in eval mode, float32, on the CPU
    manifest     its description; the caller sets `format`
    inputs       real inputs, normalized, to trace with: two, or those of a fixed batch
    calibration  batches of training inputs, normalized; empty if the format needs none
    quant        how to quantize; None: not at all
    runtime      how a program runs: eager, eager_bf16, compiled, or compiled_bf16
    options      opset, half precision and fixed batch
    """

    model: nn.Module
    manifest: Manifest
    inputs: Tensor
    calibration: Iterable[Tensor] = ()
    quant: QuantChoice | None = None
    runtime: str = "eager"
    options: ExportOptions = NO_OPTIONS


@dataclass(frozen=True)
class ExportFormat:
    """One portable form of a model.

    write       (request, folder) → details for the manifest; fills `folder` with files
    load        (folder or model file, manifest, device) → function of inputs [n, …] that returns the
                outputs [n, …], for any n, or for the n of a fixed batch
    files       names of the files that it reads; empty if they depend on the manifest
    is_program  true if a file is code, which runs when it is loaded
    builds_model  true if it holds weights alone, and the configuration names the network
    read_parts  (folder, manifest) → manifests of the exports in folders of it, by the name of the folder
    is_exact    true if the outputs equal the source's up to rounding
    devices     kinds of device that it runs on, the preferred one first
    options     names of the `ExportOptions` that it supports
    packages    packages that it imports
    """

    name: str
    doc: str
    write: Callable[[ExportRequest, Path], dict[str, Any]]
    load: Callable[[Path, Manifest, str], Runner]
    files: tuple[str, ...] = ()
    is_program: bool = False
    builds_model: bool = False
    read_parts: Callable[[Path, Manifest], dict[str, Manifest]] = lambda folder, manifest: {}
    is_exact: bool = True
    suffix: str = ""
    packages: Packages = field(default_factory=Packages)
    devices: tuple[str, ...] = ("cpu",)
    options: tuple[str, ...] = ()


def resolve_device(export_format: ExportFormat, device: str, is_explicit: bool = False) -> str:
    """Return `device` if the format runs there, else the format's own device.

    `device` is auto, cpu, cuda:1 or mps, as a configuration names it. Raises ConfigError if
    `is_explicit` (the command line names the device) and the format does not run there.
    """
    kind = get_device_type(device)
    if kind in export_format.devices or (kind == "auto" and len(export_format.devices) > 1):
        return device
    if is_explicit and kind != "auto":
        raise ConfigError(
            f"--format {export_format.name} runs on device={export_format.devices[0]} only, not on device={device}",
            f"use device={export_format.devices[0]}, or an export of --format {'pt2_int8' if kind == 'cpu' else 'pt2'}",
        )
    return export_format.devices[0]


def detect_hardware(device: str) -> Hardware:
    """Return the hardware of `device`; if it is a CUDA device and none exists, that of auto."""
    return probe_hardware("auto" if device.startswith("cuda") and not torch.cuda.is_available() else device)


def resolve_model_file(path: Path, name: str) -> Path:
    """Return the model file of an export, given by its folder or by a file of any name."""
    return path / name if path.is_dir() else path


def get_format(name: str) -> ExportFormat:
    """Return the format called `name`. Raises ConfigError with the nearest one."""
    if name not in FORMAT_NAMES:
        raise ConfigError(
            f"the format {name!r} is not one of {', '.join(FORMAT_NAMES)}", did_you_mean(name, FORMAT_NAMES)
        )
    export_format: ExportFormat = importlib.import_module(f"dnntrain.export.formats.{name}").FORMAT
    return export_format


def check_installed(export_format: ExportFormat, *, for_writing: bool = False) -> None:
    """Check that the packages to load the format, or to write it, are installed.

    Raises ConfigError if one is missing.
    """
    packages = export_format.packages
    if missing := ", ".join(packages.find_missing(for_writing=for_writing)):
        raise ConfigError(
            f"--format {export_format.name} needs {missing}",
            f"run: pip install 'dnntrain[{packages.extra}]', or use --format pt2",
        )
