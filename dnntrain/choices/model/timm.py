"""Any model of timm (pytorch-image-models), by name; needs the extra `timm`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from dnntrain.choices.model._adapters import build_and_check
from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice
from dnntrain.utils.downloads import check_download, forbid_downloads, get_refusal_reason
from dnntrain.utils.suggest import did_you_mean

_AGAIN_HINT = "set model.download=true in the command, or fill timm's cache"


@dataclass(frozen=True)
class Timm(ModelChoice):
    """timm.create_model(arch) with the data's classes and channels.

    It gets the data's image size too if the model has a fixed one.
    """

    label_key: ClassVar[str] = "name"
    model_package: ClassVar[str] = "timm"

    name: str = "resnet18"  # name of the model from timm.list_models(), with or without a tag of weights
    pretrained: bool = False  # true: timm's pretrained weights, from its cache
    download: bool = False  # true: download pretrained weights that are not in timm's cache
    drop_path: Fraction | None = None  # probability of dropping a residual branch; null: the model's default

    def check_pretrained_weights(self, shape: ModelShape) -> None:
        timm = _import_timm()
        name = self.name.partition(".")[0]
        if self.pretrained and timm.is_model(name) and not timm.models.is_model_pretrained(name):
            raise ConfigError(f"model.pretrained=true: timm has no weights for {name}", "use model.pretrained=false")
        if self.pretrained and not self.download and timm.is_model(name) and not has_cached_weights(self.name):
            raise ConfigError(f"model.pretrained=true: the weights of {self.name} are not on this machine", _AGAIN_HINT)

    def without_pretrained_weights(self) -> Self:
        return replace(self, pretrained=False, download=False)

    def build(self, shape: ModelShape) -> nn.Module:
        timm = _import_timm()
        name = self.name.partition(".")[0]
        if not timm.is_model(name):
            raise ConfigError(
                f"model.name={self.name}: timm {timm.__version__} has no such model; "
                + did_you_mean(name, timm.list_models())
            )
        self.check_pretrained_weights(shape)
        arguments = {"num_classes": shape.num_classes, **get_architecture_arguments(name, shape)}
        if self.drop_path is not None:
            arguments["drop_path_rate"] = self.drop_path
        with forbid_downloads("" if self.download else "model.download=true is not set"):
            model = build_and_check(
                partial(create_timm_model, self.name, self.pretrained, arguments), shape, f"model.name={self.name}"
            )
        model.timm_architecture = (name, get_architecture_arguments(name, shape))  # type: ignore[assignment]
        return model


def _import_timm() -> Any:
    try:
        return import_module("timm")
    except ImportError:
        raise ConfigError("model=timm needs the package timm", "install it: pip install 'dnntrain[timm]'") from None


def create_timm_model(arch: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    """Create the model with timm. Pretrained weights come from its cache if downloads are forbidden."""
    import timm

    with _without_hubs() if pretrained and get_refusal_reason() else nullcontext():
        model: nn.Module = timm.create_model(arch, pretrained=pretrained, **arguments)
    return model


def has_cached_weights(name: str) -> bool:
    """Return whether the weights of `name` are in the caches of timm's libraries; read no network."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return False
    repository = (config.hf_hub_id or "").partition("@")[0]
    files = (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
    if repository and any(isinstance(try_to_load_from_cache(repository, file), str) for file in files if file):
        return True
    file_name = str(config.url or "").rpartition("/")[2]
    return bool(file_name) and (Path(torch.hub.get_dir()) / "checkpoints" / file_name).is_file()


@contextmanager
def _without_hubs() -> Iterator[None]:
    """Let the libraries that timm downloads with read their caches alone."""
    from huggingface_hub import constants

    def refuse(url: str, *_: object, **__: object) -> None:
        check_download(f"the file {url}", _AGAIN_HINT)

    saved = constants.HF_HUB_OFFLINE, torch.hub.download_url_to_file
    constants.HF_HUB_OFFLINE, torch.hub.download_url_to_file = True, refuse
    try:
        yield
    except (OSError, ValueError):
        raise ConfigError(f"the weights are not on this machine, and {get_refusal_reason()}", _AGAIN_HINT) from None
    finally:
        constants.HF_HUB_OFFLINE, torch.hub.download_url_to_file = saved


def get_architecture_arguments(name: str, shape: ModelShape) -> dict[str, Any]:
    """Return the arguments of timm.create_model that depend on the images.

    They are the channels, and the size if the model has a fixed one.
    """
    import timm

    arguments: dict[str, Any] = {"in_chans": shape.channels}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = [shape.height, shape.width]
    return arguments
