"""A model in its portable form: `model.safetensors` with plain names, and `config.json` in timm's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnntrain import __version__
from dnntrain.nn.shape import find_head_modules, get_storage_key
from dnntrain.utils.files import write_bytes, write_json


def save_model(
    model: nn.Module,
    directory: Path,
    *,
    architecture: str,
    label_names: Sequence[str],
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    model_args: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes both files into `directory`, each atomically. `mean` and `std` are per channel, of pixels in [0, 1].

    A model of timm's own, which says so by its `timm_architecture`, is written under that name, so that
    `timm.create_model("local-dir:DIRECTORY", pretrained=True)` loads it; dnntrain's own name stands under `dnntrain`.
    Raises OSError where the folder cannot be written; the old files are then intact.
    """
    from safetensors.torch import save

    tensors = get_plain_tensors(model)
    metadata = {"format": "pt", "dnntrain": __version__}
    data = save(tensors, metadata)
    write_bytes(directory / "model.safetensors", data)
    name, arguments = getattr(model, "timm_architecture", None) or (architecture, dict(model_args))
    heads = find_head_modules(model)
    card = {
        "architecture": name,
        "num_classes": len(label_names),
        "num_features": _count_head_features(model, heads),
        "label_names": list(label_names),
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "input_size": list(input_shape),
            "fixed_input_size": _has_fixed_size(model),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": list(mean),
            "std": list(std),
            "classifier": heads[0] if len(heads) == 1 else list(heads),
        },
        "dnntrain": {
            "version": __version__,
            "model": architecture,
            "model_args": dict(model_args),
            "sha256": hashlib.sha256(data).hexdigest(),
            **(extra or {}),
        },
    }
    write_json(directory / "config.json", card)


def get_plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by plain name, on the CPU, contiguous; a shared tensor stands under its first name."""
    seen_storages: set[tuple[int, int, tuple[int, ...]]] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} of the model's state is a {type(tensor).__name__}, not a tensor; it cannot be exported"
            )
        if get_storage_key(tensor) in seen_storages:
            continue
        seen_storages.add(get_storage_key(tensor))
        # A view of a larger storage is copied, for safetensors refuses storages that overlap.
        owns_storage = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        plain = tensor.detach().cpu().contiguous()
        tensors[name.replace("_orig_mod.", "")] = plain if owns_storage else plain.clone()
    return tensors


def _count_head_features(model: nn.Module, heads: tuple[str, ...]) -> int | None:
    """Numbers that the head gets for each image."""
    head = model.get_submodule(heads[0]) if heads else None
    if isinstance(head, nn.Linear):
        return head.in_features
    return head.in_channels if isinstance(head, nn.Conv2d) else None


def _has_fixed_size(model: nn.Module) -> bool:
    """True where images of another size do not fit; a model that does not tell is taken to be so."""
    config = getattr(model, "pretrained_cfg", None)
    return bool(config.get("fixed_input_size", False)) if isinstance(config, dict) else True
