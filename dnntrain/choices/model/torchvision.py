"""Any classification or segmentation model of torchvision, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from dnntrain.choices.model._adapters import adapt_input_channels, build_and_check, import_library
from dnntrain.choices.model._torchvision_maps import create_map_model, list_map_models
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights
from dnntrain.protocols import ModelChoice, OutputKind
from dnntrain.utils.downloads import check_download
from dnntrain.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Torchvision(ModelChoice):
    """torchvision.models.get_model(arch) with the data's classes and channels.

    Most models are designed for 224x224 pixels. task=segmentation needs a segmentation network, such
    as lraspp_mobilenet_v3_large; its auxiliary head is left out.
    """

    label_key: ClassVar[str] = "name"
    model_package: ClassVar[str] = "torchvision"
    output_kinds: ClassVar[frozenset[OutputKind]] = frozenset({OutputKind.VECTOR, OutputKind.MAP})

    name: str = "resnet50"  # name of the model from torchvision.models.list_models()
    weights: str | None = None  # pretrained weights, such as DEFAULT or IMAGENET1K_V2; null: newly initialized
    download: bool = False  # true: download pretrained weights that are not in torch's cache

    def check_pretrained_weights(self, shape: ModelShape) -> None:
        if self.weights is not None and self.name in import_library("torchvision").models.list_models():
            url = self._find_weights_url(shape)
            if not self.download:
                get_weights_file(url, download=False)

    def without_pretrained_weights(self) -> Self:
        return replace(self, weights=None, download=False)

    def build(self, shape: ModelShape) -> nn.Module:
        torchvision = import_library("torchvision")

        names = list_map_models() if shape.is_map else torchvision.models.list_models(module=torchvision.models)
        if self.name not in names:
            kind = "segmentation" if shape.is_map else "classification"
            raise ConfigError(
                f"model.name={self.name}: torchvision {torchvision.__version__} has no such {kind} model; "
                + (f"it has {', '.join(names)}" if shape.is_map else did_you_mean(self.name, names))
            )
        file = None if self.weights is None else get_weights_file(self._find_weights_url(shape), self.download)
        return build_and_check(
            partial(create_map_model if shape.is_map else create_torchvision_model, self.name, shape, file),
            shape,
            f"model.name={self.name}",
        )

    def _find_weights_url(self, shape: ModelShape) -> str:
        """Return the address of the chosen weights. Raises ConfigError if they do not exist."""
        torchvision = import_library("torchvision")

        choices = torchvision.models.get_model_weights(self.name).__members__
        if self.weights is None or self.weights not in choices:
            raise ConfigError(
                f"model.weights={self.weights}: {self.name} has no such weights; "
                + did_you_mean(str(self.weights), list(choices))
            )
        if shape.channels != 3:
            raise ConfigError(
                f"model.weights={self.weights} is for images of 3 channels; these have {shape.channels}",
                "use model.weights=null, or data with colors",
            )
        url: str = choices[self.weights].value.url
        return url


def create_torchvision_model(arch: str, shape: ModelShape, pretrained: Path | None) -> nn.Module:
    """Create the model; load all weights but the head's from `pretrained`, if given."""
    torchvision = import_library("torchvision")
    model: nn.Module = torchvision.models.get_model(
        arch, weights=None, num_classes=shape.num_classes, **_get_extra_arguments(arch, shape)
    )
    adapt_input_channels(model, shape.channels)
    if pretrained is not None:
        load_weights(model, pretrained, replace_head=True)
    return model


def get_weights_file(url: str, download: bool) -> Path:
    """Return the file of `url` in torch's cache; download it if `download` allows it.

    The hash of the file is in its name.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    if not download:
        raise ConfigError(
            f"the weights {url} are not on this machine",
            f"set model.download=true, or put the file at {path}",
        )
    check_download(f"the file {url}", f"set model.download=true again, or put the file at {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{url} could not be fetched: {error}", f"put the file at {path}") from None
    return path


def _get_extra_arguments(arch: str, shape: ModelShape) -> dict[str, Any]:
    """Return the arguments that some constructors need besides the number of classes."""
    if arch in ("googlenet", "inception_v3"):
        # With auxiliary classifiers the outputs would be a tuple.
        return {"aux_logits": False, "init_weights": True}
    if arch.startswith("vit_"):
        return {"image_size": shape.height}
    if arch.startswith("maxvit"):
        return {"input_size": (shape.height, shape.width)}
    return {}
