"""Save and load a model as `model.safetensors` and timm's `config.json`.

Loading runs no code from the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnntrain import __version__
from dnntrain.checkpoint.model_spec import decode_model_spec
from dnntrain.config.decode import decode_choice
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.shape import ModelShape, find_head_modules, get_storage_key
from dnntrain.nn.weights import load_weights
from dnntrain.protocols import ModelSpec
from dnntrain.utils.files import parse_json, read_bytes, write_bytes, write_json

#: Options that fetch weights, which the file replaces anyway.
_NO_FETCH_OPTIONS: dict[str, Any] = {"weights": None, "pretrained": False, "download": False}

#: The normalization of a model as it was built.
_NO_NORM_ARGS: dict[str, Any] = {"name": "none"}


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
    from safetensors.torch import save

    tensors = get_plain_tensors(model)
    metadata = {"format": "pt", "dnntrain": __version__}
    data = save(tensors, metadata)
    write_bytes(directory / "model.safetensors", data)
    name, arguments = getattr(model, "timm_architecture", None) or (architecture, dict(model_args))
    heads = find_head_modules(model)
    card = {
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
            "norm_args": dict(norm_args or _NO_NORM_ARGS),
            "targets": spec.targets.kind.name.lower(),
            "output": {"name": spec.output.name, "shape": list(spec.output.shape)},
            "sha256": hashlib.sha256(data).hexdigest(),
            **(extra or {}),
        },
    }
    write_json(directory / "config.json", card)


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


def without_pretrained_weights(choice: Any) -> Any:
    """Return the choice of a model without its options that fetch weights."""
    defaults = {field.name: field.default for field in fields(choice)}
    return replace(
        choice, **{name: value for name, value in _NO_FETCH_OPTIONS.items() if defaults.get(name, ...) == value}
    )


def load_exported_model(path: Path) -> ExportedModel:
    """Load the model of a run, an export, or a .safetensors with its config.json.

    Raises ConfigError if there is none or its architecture would run foreign code, CheckpointError
    if a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    weights = path / "model.safetensors" if path.is_dir() else path
    config = _read_config(path, folder)
    model_info, spec = config["dnntrain"], parse_model_spec(config)
    if model_info["model"] == "custom" or model_info["model_args"].get("name") == "custom":
        raise ConfigError(
            f"{path} cannot be loaded, because its model is custom code", "use a model of dnntrain, torchvision or timm"
        )
    options = {
        **model_info["model_args"],
        **{key: value for key, value in _NO_FETCH_OPTIONS.items() if key in model_info["model_args"]},
    }
    choice = decode_choice("model", model_info["model"], options)
    norm_args = model_info.get("norm_args", _NO_NORM_ARGS)
    norm = decode_choice("norm", norm_args["name"], norm_args)
    model = build_with_zero_weights(lambda: norm.convert_for_export(choice.build(ModelShape.from_spec(spec))))
    load_weights(model, str(weights), replace_head=False)
    return ExportedModel(
        path=path,
        architecture={"model": model_info["model"], **options, **_describe_norm(norm_args)},
        model=model.eval(),
        spec=spec,
    )


def _describe_norm(norm_args: Mapping[str, Any]) -> dict[str, Any]:
    return {} if norm_args["name"] == "none" else {f"norm.{key}": value for key, value in norm_args.items()}


def parse_model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Return the ModelSpec in a config.json.

    Raises ValueError, which names the key, if a value is missing or has the wrong type or range.
    """
    model_info, input_info = (_get_mapping(config, key) for key in ("dnntrain", "pretrained_cfg"))
    output = _get_mapping(model_info, "output")
    if not isinstance(model_info.get("sha256", ""), str):
        raise ValueError("dnntrain.sha256 must be a text")
    return decode_model_spec(
        input_shape=input_info.get("input_size"),
        mean=input_info.get("mean"),
        std=input_info.get("std"),
        names=config.get("label_names"),
        targets=model_info.get("targets"),
        output_name=output.get("name"),
        output_shape=output.get("shape"),
    )


def _get_mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must be a mapping")
    return value


def _read_config(path: Path, folder: Path) -> dict[str, Any]:
    """Return the checked contents of config.json."""
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
    try:
        config = parse_json(read_bytes(file))
        if not isinstance(config, dict):
            raise ValueError("it must hold a mapping")
        parse_model_spec(config)
        model_info = config["dnntrain"]
        _get_mapping(model_info, "model_args")
        if not isinstance(model_info.get("model"), str):
            raise ValueError("dnntrain.model must be a text")
        norm_args = model_info.get("norm_args", _NO_NORM_ARGS)
        if not isinstance(norm_args, dict) or not isinstance(norm_args.get("name"), str):
            raise ValueError("dnntrain.norm_args must be a mapping with a name")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", "export the model again") from None
    return config
