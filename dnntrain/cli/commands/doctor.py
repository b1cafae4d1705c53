"""`dnntrain doctor`: versions, devices, processor features, ports, write access."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.utils.hardware import detect
from dnntrain.utils.units import format_bytes

_NEEDED = (
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
_EXTRAS = ("onnx", "onnxscript", "onnxruntime", "timm", "tensorboard", "mlflow")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `level` is ok, note or fault."""

    level: str
    topic: str
    text: str


def run(arguments: Arguments) -> int:
    """Prints every finding; exit code 1 where there is a fault."""
    findings = examine()
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = {"ok": "  ", "note": "- ", "fault": "! "}[finding.level]
            print(f"{mark}{finding.topic:<14} {finding.text}")
    return int(any(finding.level == "fault" for finding in findings))


def examine() -> list[Finding]:
    """All findings, in the order of a person's questions: what is installed, what computes, what can be written."""
    checks: list[Callable[[], list[Finding]]] = [_versions, _devices, _processor, _memory, _folders, _ports, _data]
    return [finding for check in checks for finding in check()]


def _versions() -> list[Finding]:
    from dnntrain import __version__

    findings = [Finding("ok", "dnntrain", __version__), Finding("ok", "python", platform.python_version())]
    for package in (*_NEEDED, *_EXTRAS):
        try:
            findings.append(Finding("ok", package, version(package)))
        except PackageNotFoundError:
            level, text = ("fault", "missing") if package in _NEEDED else ("note", "not installed (optional)")
            findings.append(Finding(level, package, text))
    return findings


def _devices() -> list[Finding]:
    import torch

    hardware = detect("auto")
    name = hardware.device_name or "no accelerator: training runs on the processor"
    count = f"{hardware.device_count} × " if hardware.device == "cuda" else ""
    distributed = "gloo" if torch.distributed.is_available() else "none"
    if hardware.device == "cuda" and torch.distributed.is_nccl_available():
        distributed += ", nccl"
    return [Finding("ok", "device", f"{hardware.device}: {count}{name}"), Finding("ok", "distributed", distributed)]


def _processor() -> list[Finding]:
    from dnntrain.choices.precision.auto import Auto

    hardware = detect("auto")
    policy = Auto().build(hardware)
    return [
        Finding("ok", "processor", f"{hardware.cpu_model}, {hardware.cores} cores"),
        Finding("ok", "features", " ".join(hardware.cpu_features) or "none known"),
        Finding("ok", "precision", f"{policy.name} ({policy.reason})"),
    ]


def _memory() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    level = "fault" if free < 2**26 else "ok"
    return [
        Finding("ok", "memory", format_bytes(detect("cpu").memory_bytes)),
        Finding(level, "free disk", f"{format_bytes(free)} here"),
    ]


def _folders() -> list[Finding]:
    findings = []
    for topic, folder in (("runs", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                findings.append(Finding("ok", topic, f"{folder} can be written"))
        except OSError as error:
            findings.append(
                Finding("fault", topic, f"{folder} cannot be written: {error.strerror}; set run_dir or TMPDIR")
            )
    return findings


def _ports() -> list[Finding]:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return [Finding("ok", "ports", "a free one on 127.0.0.1")]
    except OSError as error:
        return [Finding("fault", "ports", f"none on 127.0.0.1: {error.strerror}; several processes cannot meet")]


def _data() -> list[Finding]:
    named = os.environ.get("DNNTRAIN_DATA")
    if named is None:
        return [Finding("note", "data", "DNNTRAIN_DATA is not set; digits comes with dnntrain")]
    level = "ok" if Path(named).is_dir() else "fault"
    return [Finding(level, "data", f"DNNTRAIN_DATA={named}" + ("" if level == "ok" else " is not a folder"))]
