"""`--format hf`: a folder that transformers loads as GPT-2 or Llama, config.json and model.safetensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dnntrain.errors import ConfigError
from dnntrain.export.formats import ExportFormat, ExportRequest, Runner
from dnntrain.export.manifest import Manifest
from dnntrain.nn.decoder import Decoder
from dnntrain.nn.hf.folder import load_folder, read_folder, write_folder


def write(source: ExportRequest, folder: Path) -> dict[str, Any]:
    """Write the weights under transformers' names. Raises ConfigError for networks that it does not have."""
    if not isinstance(source.model, Decoder):
        raise ConfigError("--format hf exports decoders alone", "use model=gpt, or --format safetensors")
    write_folder(source.model, folder)
    return {"family": read_folder(folder).family.name}


def load(export_path: Path, manifest: Manifest, device: str) -> Runner:
    """Read the folder back as `model=hf` does."""
    folder = read_folder(export_path if export_path.is_dir() else export_path.parent)
    model = Decoder(replace(folder.shape, separator=None))
    load_folder(folder, model)
    model = model.to(device).eval()
    return lambda inputs: model(inputs.to(device))


FORMAT = ExportFormat(
    "hf",
    "GPT-2 or Llama for transformers; no code",
    write,
    load,
    files=("model.safetensors", "config.json"),
    devices=("cpu", "cuda", "mps"),
)
