"""A model from its portable form alone: `model.safetensors` and the `config.json` beside it. No code is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.config.decode import decode_choice
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights

#: Knobs that fetch weights, which the file replaces anyway.
_NO_FETCH_OPTIONS: dict[str, Any] = {"weights": None, "pretrained": False, "download": False}


@dataclass(frozen=True)
class ExportedModel:
    """A model with its weights, on the CPU, and what its input and output are. `architecture` is the choice and its knobs."""

    path: Path
    architecture: Mapping[str, Any]
    model: nn.Module
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def without_pretrained_weights(choice: Any) -> Any:
    """The choice of a model without the knobs that fetch weights: for one whose weights come from elsewhere."""
    defaults = {field.name: field.default for field in fields(choice)}
    return replace(
        choice, **{name: value for name, value in _NO_FETCH_OPTIONS.items() if defaults.get(name, ...) == value}
    )


def load_exported_model(path: Path) -> ExportedModel:
    """The model of a run directory, of an export's folder, or of a .safetensors file with its config.json beside it.

    Raises ConfigError where there is none or its architecture would run foreign code, CheckpointError where a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    weights = path / "model.safetensors" if path.is_dir() else path
    config = _read_config(path, folder)
    model_info, image_info = config["dnntrain"], config["pretrained_cfg"]
    if model_info["model"] == "custom" or model_info["model_args"].get("name") == "custom":
        raise ConfigError(
            f"{path} holds a model of its own code, which would be run", "use a model of dnntrain, torchvision or timm"
        )
    names = tuple(str(name) for name in config["label_names"])
    channels, height, width = (int(size) for size in image_info["input_size"])
    options = {
        **model_info["model_args"],
        **{key: value for key, value in _NO_FETCH_OPTIONS.items() if key in model_info["model_args"]},
    }
    choice = decode_choice("model", model_info["model"], options)
    model = build_with_zero_weights(lambda: choice.build(ModelShape(len(names), channels, height, width)))
    load_weights(model, str(weights), replace_head=False)
    return ExportedModel(
        path=path,
        architecture={"model": model_info["model"], **options},
        model=model.eval(),
        class_names=names,
        input_shape=(channels, height, width),
        mean=tuple(float(value) for value in image_info["mean"]),
        std=tuple(float(value) for value in image_info["std"]),
    )


def _read_config(path: Path, folder: Path) -> dict[str, Any]:
    """The checked contents of config.json."""
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
            hint = "weights are wanted, not a program: name the run itself, or its export with --format safetensors"
        raise ConfigError(f"{path} holds no exported model: {file} is missing", hint)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model_info, image_info = config["dnntrain"], config["pretrained_cfg"]
        is_complete = (
            isinstance(model_info["model"], str)
            and isinstance(model_info["model_args"], dict)
            and isinstance(config["label_names"], list)
            and all(isinstance(image_info[key], list) for key in ("input_size", "mean", "std"))
            and len(image_info["input_size"]) == 3
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {type(error).__name__}: {error}", "export the model again") from None
    if not is_complete:
        raise CheckpointError(f"{file} is no description of a model of dnntrain", "export the model again")
    return dict(config)
