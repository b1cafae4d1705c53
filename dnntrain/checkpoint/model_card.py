"""Read and check the card of a model, config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnntrain.checkpoint.model_spec import decode_model_spec
from dnntrain.errors import CheckpointError
from dnntrain.protocols import ModelSpec
from dnntrain.pruning.widths import Widths, decode_widths
from dnntrain.utils.files import read_bytes
from dnntrain.utils.json_files import parse_json
from dnntrain.utils.sealed_json import compute_json_digest

#: The key with the SHA-256 of config.json without this key, beside `sha256`, that of the weights.
_CARD_DIGEST = "config_sha256"
#: The normalization of a model as it was built.
NO_NORM_ARGS: dict[str, Any] = {"name": "none"}


def read_card(folder: Path) -> dict[str, Any]:
    """Return the contents of config.json in `folder`.

    Raises CheckpointError if it is missing or damaged.
    """
    card = _parse_card(folder)
    check_card_digest(folder, card)
    return card


def read_card_widths(folder: Path) -> Widths:
    """Return the widths of the network in `folder`, by its config.json; of a whole one if that says nothing."""
    file = folder / "config.json"
    if not file.is_file():
        return Widths()
    card = _parse_card(folder)
    check_card_digest(folder, card)
    value = card["dnntrain"].get("widths")
    return Widths() if value is None else decode_widths(value, str(file))


def check_card_digest(folder: Path, card: Mapping[str, Any]) -> None:
    """Check that `card`, the contents of config.json in `folder`, has the checksum of its values.

    Raises CheckpointError if not.
    """
    if card["dnntrain"].get(_CARD_DIGEST) != _compute_card_digest(card):
        raise CheckpointError(
            f"{folder / 'config.json'} is damaged or was altered: its values do not match its SHA-256",
            "restore it from a copy, or export the model again",
        )


def _parse_card(folder: Path) -> dict[str, Any]:
    """Return the contents of config.json in `folder` if they have its form."""
    file = folder / "config.json"
    try:
        config = parse_json(read_bytes(file))
        if not isinstance(config, dict):
            raise ValueError("it must hold a mapping")
        parse_model_spec(config)
        model_info = config["dnntrain"]
        _get_mapping(model_info, "model_args")
        if not isinstance(model_info.get("model"), str):
            raise ValueError("dnntrain.model must be a text")
        norm_args = model_info.get("norm_args", NO_NORM_ARGS)
        if not isinstance(norm_args, dict) or not isinstance(norm_args.get("name"), str):
            raise ValueError("dnntrain.norm_args must be a mapping with a name")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", "export the model again") from None
    return config


def seal_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of config.json with the checksum of their values."""
    return {**card, "dnntrain": {**card["dnntrain"], _CARD_DIGEST: _compute_card_digest(card)}}


def _compute_card_digest(card: Mapping[str, Any]) -> str:
    """Return the SHA-256 of config.json without its own checksum."""
    model_info = {key: value for key, value in card["dnntrain"].items() if key != _CARD_DIGEST}
    return compute_json_digest({**card, "dnntrain": model_info})


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
        extra=model_info,
    )


def _get_mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must be a mapping")
    return value
