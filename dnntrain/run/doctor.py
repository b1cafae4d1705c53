"""Check the installation: versions, devices, processor features, ports, write access."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dnntrain.input.shared_memory import read_free_shared_bytes
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.units import format_bytes
from dnntrain.utils.versions import read_version

_REQUIRED_PACKAGES = (
    "torch",
    "torchvision",
    "hydra-core",
    "omegaconf",
    "rich",
    "numpy",
    "safetensors",
    "pillow",
    "matplotlib",
    "torchao",
)
_OPTIONAL_PACKAGES = (
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
    "torchcodec",
    "timm",
    "tensorboard",
    "mlflow",
)

#: Room for the batches of eight reading processes: 32 images of 224 × 224 pixels in each batch.
_SHARED_BYTES_OF_READERS = 128 * 2**20


@dataclass(frozen=True)
class Check:
    """The result of one check: `level` is ok, note or fault."""

    level: str
    topic: str
    text: str


def run_checks() -> list[Check]:
    """Return all results in the order of a user's questions: installed, devices, writable folders."""
    probes: list[Callable[[], list[Check]]] = [
        _check_versions,
        _check_devices,
        _check_processor,
        _check_load,
        _check_memory,
        _check_shared_memory,
        _check_folders,
        _check_ports,
        _check_data,
    ]
    return [result for probe in probes for result in probe()]


def _check_versions() -> list[Check]:
    from dnntrain import __version__

    checks = [Check("ok", "dnntrain", __version__), Check("ok", "python", platform.python_version())]
    for package in (*_REQUIRED_PACKAGES, *_OPTIONAL_PACKAGES):
        version = read_version(package)
        if version is not None:
            checks.append(Check("ok", package, version))
        elif package in _REQUIRED_PACKAGES:
            checks.append(Check("fault", package, "missing"))
        else:
            checks.append(Check("note", package, "not installed (optional)"))
    return checks


def _check_devices() -> list[Check]:
    import torch

    hardware = probe_hardware("auto")
    name = hardware.device_name or "no accelerator: training runs on the processor"
    count = f"{hardware.device_count} × " if hardware.device == "cuda" else ""
    distributed = "gloo" if torch.distributed.is_available() else "none"
    if hardware.device == "cuda" and torch.distributed.is_nccl_available():
        distributed += ", nccl"
    return [Check("ok", "device", f"{hardware.device}: {count}{name}"), Check("ok", "distributed", distributed)]


def _check_load() -> list[Check]:
    load = describe_current_load()
    return [Check("note", "load", load) if load else Check("ok", "load", "the cores are free")]


def _check_processor() -> list[Check]:
    from dnntrain.choices.precision.auto import AutoPrecision

    hardware = probe_hardware("auto")
    policy = AutoPrecision().build(hardware)
    return [
        Check("ok", "processor", f"{hardware.cpu_model}, {hardware.cores} cores"),
        Check("ok", "features", " ".join(hardware.cpu_features) or "none known"),
        Check("ok", "precision", f"{policy.name} ({policy.reason})"),
    ]


def _check_memory() -> list[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    level = "fault" if free < 2**26 else "ok"
    return [
        Check("ok", "memory", format_bytes(probe_hardware("cpu").memory_bytes)),
        Check(level, "free disk", f"{format_bytes(free)} here"),
    ]


def _check_shared_memory() -> list[Check]:
    free_bytes = read_free_shared_bytes()
    if free_bytes is None:
        return []
    if free_bytes >= _SHARED_BYTES_OF_READERS:
        return [Check("ok", "/dev/shm", f"{format_bytes(free_bytes)} free")]
    text = "reading processes (data.num_workers) may not fit; give it more room: docker run --shm-size=1g"
    return [Check("note", "/dev/shm", f"{format_bytes(free_bytes)} free: {text}")]


def _check_folders() -> list[Check]:
    checks = []
    for topic, folder in (("runs", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                checks.append(Check("ok", topic, f"{folder} can be written"))
        except OSError as error:
            checks.append(Check("fault", topic, f"{folder} cannot be written: {error.strerror}; set run_dir or TMPDIR"))
    return checks


def _check_ports() -> list[Check]:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return [Check("ok", "ports", "a free one on 127.0.0.1")]
    except OSError as error:
        return [Check("fault", "ports", f"none on 127.0.0.1: {error.strerror}; several ranks cannot connect")]


def _check_data() -> list[Check]:
    data_dir = os.environ.get("DNNTRAIN_DATA")
    if data_dir is None:
        return [Check("note", "data", "DNNTRAIN_DATA is not set; digits comes with dnntrain")]
    level = "ok" if Path(data_dir).is_dir() else "fault"
    return [Check(level, "data", f"DNNTRAIN_DATA={data_dir}" + ("" if level == "ok" else " is not a folder"))]
