"""`--format safetensors`: weights with plain names, and config.json in timm's layout.

It holds no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.checkpoint.portable_model import save_model
from dnntrain.config.build_choice import decode_choice
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner
from dnntrain.export.manifest import Manifest
from dnntrain.export.rebuild import build_network, get_choice


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write model.safetensors and config.json."""
    manifest = source.manifest
    arguments = dict(manifest.config["model"])
    save_model(
        source.model,
        folder,
        architecture=str(manifest.config.get("choices", {}).get("model") or arguments["name"]),
        spec=manifest.spec,
        model_args=arguments,
        norm_args=manifest.config["norm"],
    )
    return {}


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Build the network that the configuration names, with these weights."""
    model = build_from_manifest(manifest, export_path if export_path.is_dir() else export_path.parent).to(device).eval()
    return lambda inputs: model(inputs.to(device))


def build_from_manifest(manifest: Manifest, folder: Path) -> nn.Module:
    """Build the manifest's network with the weights of `folder`, on the CPU."""
    config = manifest.config
    model, norm = (decode_choice(group, get_choice(config, group), config[group]) for group in ("model", "norm"))
    return build_network(model, norm, folder, manifest.spec)


FORMAT = ExportFormat(
    "safetensors",
    "weights with plain names; no code",
    write,
    load,
    builds_model=True,
    files=("model.safetensors", "config.json"),
    devices=("cpu", "cuda", "mps"),
)
