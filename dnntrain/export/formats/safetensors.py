"""`format=safetensors`: weights with plain names, and config.json in timm's layout. Holds no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dnntrain.checkpoint.save_portable_model import save_model
from dnntrain.config.decode import decode_choice
from dnntrain.export.formats import Format, Runner, Source
from dnntrain.export.manifest import Card
from dnntrain.export.rebuild import choice_of, network


def write(source: Source, folder: Path) -> dict[str, Any]:
    """model.safetensors and config.json."""
    card = source.card
    arguments = dict(card.config["model"])
    save_model(
        source.model,
        folder,
        architecture=str(card.config.get("choices", {}).get("model") or arguments["name"]),
        label_names=card.class_names,
        input_shape=card.input_shape,
        mean=card.mean,
        std=card.std,
        model_args=arguments,
    )
    return {}


def load(place: Path, card: Card, device: str) -> Runner:
    """The network that the configuration names, with these weights."""
    model = decoded_network(card, place if place.is_dir() else place.parent).to(device).eval()
    return lambda images: model(images.to(device))


def decoded_network(card: Card, folder: Path) -> nn.Module:
    """The card's network with the weights of `folder`, on the CPU."""
    config = card.config
    model, norm = (decode_choice(group, choice_of(config, group), config[group]) for group in ("model", "norm"))
    return network(model, norm, folder, len(card.class_names), card.input_shape)


FORMAT = Format("safetensors", "weights with plain names; no code", write, load, devices=("cpu", "cuda", "mps"))
