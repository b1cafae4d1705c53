"""torchvision's segmentation networks: logits for each pixel, as one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnntrain.choices.model._adapters import adapt_input_channels, import_library
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights


def list_map_models() -> list[str]:
    """Return the names of torchvision's segmentation networks."""
    models = import_library("torchvision").models
    names: list[str] = models.list_models(module=models.segmentation)
    return names


def create_map_model(arch: str, shape: ModelShape, pretrained: Path | None) -> nn.Module:
    """Create the network without its auxiliary head; load all weights but the heads' from `pretrained`, if given.

    torchvision trains it with the auxiliary head, which its weights hold. It reads no output of it
    afterwards, so it is removed.
    """
    models = import_library("torchvision").models
    arguments: dict[str, Any] = {} if arch.startswith("lraspp") else {"aux_loss": pretrained is not None}
    model: nn.Module = models.get_model(
        arch, weights=None, weights_backbone=None, num_classes=shape.num_classes, **arguments
    )
    adapt_input_channels(model, shape.channels)
    # Every layer that maps features to classes is replaced with the head (`find_head_modules`).
    heads = [name for name, layer in model.named_modules() if _maps_to_classes(name, layer, shape.num_classes)]
    model.pretrained_cfg = {"classifier": tuple(heads)}  # type: ignore[assignment]
    if pretrained is not None:
        load_weights(model, pretrained, replace_head=True)
        if not arch.startswith("lraspp"):
            model.aux_classifier = None  # type: ignore[assignment]
            model.pretrained_cfg = {"classifier": tuple(name for name in heads if not name.startswith("aux_"))}  # type: ignore[assignment]
    model.__class__ = type(f"{type(model).__name__}Map", (_TensorOutput, type(model)), {})
    return model


def _maps_to_classes(name: str, layer: nn.Module, classes: int) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and "classifier" in name
        and layer.out_channels == classes
        and layer.bias is not None
    )


class _TensorOutput(nn.Module):
    """Returns the logits alone; torchvision returns a dict of them."""

    def forward(self, images: Tensor) -> Tensor:
        outputs: Any = super().forward(images)
        logits: Tensor = outputs["out"]
        return logits
