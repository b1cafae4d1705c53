"""Save and load a model as `model.safetensors` and timm's `config.json`.

Loading runs no code from the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnntrain import __version__
from dnntrain.checkpoint.digests import compute_bytes_digest, compute_file_digest
from dnntrain.checkpoint.model_card import (
    NO_NORM_ARGS,
    _parse_card,
    check_card_digest,
    parse_model_spec,
    read_card_widths,
    seal_card,
)
from dnntrain.checkpoint.model_spec import encode_extra_values
from dnntrain.config.build_choice import decode_choice
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.safetensors_file import encode_safetensors
from dnntrain.nn.shape import ModelShape, find_head_modules, get_storage_key
from dnntrain.nn.weights import load_weights
from dnntrain.protocols import ModelSpec
from dnntrain.pruning.widths import apply_widths, get_widths
from dnntrain.utils.files import write_bytes
from dnntrain.utils.json_files import write_json


def save_model(
    model: nn.Module,
    directory: Path,
    *,
    architecture: str,
    spec: ModelSpec,
    model_args: Mapping[str, Any],
    norm_args: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write both files into `directory`, each atomically.

    A timm model has a `timm_architecture`. It is written under that name, so that
    `timm.create_model("local-dir:DIRECTORY", pretrained=True)` loads it; dnntrain's own name is
    under `dnntrain`. Raises OSError if the folder cannot be written; the old files are then intact.
    """
    data = encode_safetensors(get_plain_tensors(model), {"format": "pt", "dnntrain": __version__})
    write_bytes(directory / "model.safetensors", data)
    name, arguments = getattr(model, "timm_architecture", None) or (architecture, dict(model_args))
    heads = find_head_modules(model)
    card: dict[str, Any] = {
        "architecture": name,
        "num_classes": spec.output.size,
        "num_features": _count_head_features(model, heads),
        "label_names": list(spec.targets.names),
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "input_size": list(spec.inputs.shape),
            "fixed_input_size": _has_fixed_size(model),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": list(spec.inputs.mean),
            "std": list(spec.inputs.std),
            "classifier": heads[0] if len(heads) == 1 else list(heads),
        },
        "dnntrain": {
            "version": __version__,
            "model": architecture,
            "model_args": dict(model_args),
            "norm_args": dict(norm_args or NO_NORM_ARGS),
            "targets": spec.targets.kind.name.lower(),
            **encode_extra_values(spec),
            "output": {"name": spec.output.name, "shape": list(spec.output.shape)},
            "sha256": compute_bytes_digest(data),
            **({} if get_widths(model).is_whole else {"widths": get_widths(model).as_json()}),
            **(extra or {}),
        },
    }
    write_json(directory / "config.json", seal_card(card))


def get_plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by plain name, on the CPU, contiguous.

    A shared tensor is listed under its first name.
    """
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
        # A view of a larger storage is copied, because safetensors rejects storages that overlap.
        owns_storage = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        plain = tensor.detach().cpu().contiguous()
        tensors[name.replace("_orig_mod.", "")] = plain if owns_storage else plain.clone()
    return tensors


def _count_head_features(model: nn.Module, heads: tuple[str, ...]) -> int | None:
    """Return the number of features that the head gets for each example."""
    head = model.get_submodule(heads[0]) if heads else None
    if isinstance(head, nn.Linear):
        return head.in_features
    return head.in_channels if isinstance(head, nn.Conv2d) else None


def _has_fixed_size(model: nn.Module) -> bool:
    """Return whether the model rejects images of another size.

    True if it does not declare this.
    """
    config = getattr(model, "pretrained_cfg", None)
    return bool(config.get("fixed_input_size", False)) if isinstance(config, dict) else True


@dataclass(frozen=True)
class ExportedModel:
    """A model with its weights, on the CPU.

    `architecture` is the choice and its options, with its normalization unless that is `norm=none`.
    """

    path: Path
    architecture: Mapping[str, Any]
    model: nn.Module
    spec: ModelSpec


def load_exported_model(path: Path) -> ExportedModel:
    """Load the model of a run, an export, or a .safetensors with its config.json.

    Raises ConfigError if there is none or its architecture would run foreign code, CheckpointError
    if a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    weights = path / "model.safetensors" if path.is_dir() else path
    config = _read_config(path, folder)
    model_info, spec = config["dnntrain"], parse_model_spec(config)
    try:
        saved_choice = decode_choice("model", model_info["model"], model_info["model_args"])
    except ConfigError:
        check_card_digest(folder, config)
        raise
    if saved_choice.list_code_options():
        raise ConfigError(
            f"{path} cannot be loaded, because its model is custom code", "use a model of dnntrain, torchvision or timm"
        )
    choice = saved_choice.without_pretrained_weights()
    options = {
        name: value if vars(choice).get(name) == vars(saved_choice).get(name) else vars(choice)[name]
        for name, value in model_info["model_args"].items()
    }
    check_card_digest(folder, config)
    check_weights_digest(weights, config)
    norm_args = model_info.get("norm_args", NO_NORM_ARGS)
    norm = decode_choice("norm", norm_args["name"], norm_args)
    model = build_with_zero_weights(lambda: norm.convert_for_export(choice.build(ModelShape.from_spec(spec))))
    model = apply_widths(model, read_card_widths(folder))
    load_weights(model, str(weights), replace_head=False)
    return ExportedModel(
        path=path,
        architecture={"model": model_info["model"], **options, **_describe_norm(norm_args)},
        model=model.eval(),
        spec=spec,
    )


def _describe_norm(norm_args: Mapping[str, Any]) -> dict[str, Any]:
    return {} if norm_args["name"] == "none" else {f"norm.{key}": value for key, value in norm_args.items()}


def _read_config(path: Path, folder: Path) -> dict[str, Any]:
    """Return the checked contents of the config.json in `folder`."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist", "name a run directory, or the folder of an export")
    file = folder / "config.json"
    if not file.is_file():
        hint = (
            "name a run directory, the folder of a safetensors export, or a .safetensors with its config.json beside it"
        )
        if (folder / "config.yaml").is_file():
            hint = f"finish the run with: dnntrain resume {folder}"
        elif (folder / "manifest.json").is_file():
            hint = (
                "this is a program without loadable weights: "
                "name the run itself, or its export with --format safetensors"
            )
        raise ConfigError(f"{path} does not hold an exported model: {file} is missing", hint)
    return _parse_card(folder)


def check_weights_digest(file: Path, card: Mapping[str, Any]) -> None:
    """Check that `card`, the contents of config.json, has the checksum of the weights in `file`.

    Raises CheckpointError if not.
    """
    expected_sha256 = card["dnntrain"].get("sha256")
    if not file.is_file():
        return
    if (actual_sha256 := compute_file_digest(file)) != expected_sha256:
        raise CheckpointError(
            f"{file} is damaged: it differs from the file that the run wrote (SHA-256 {actual_sha256[:12]}…, not "
            f"{str(expected_sha256)[:12]}…)",
            "restore it from a copy, or train the run again",
        )
