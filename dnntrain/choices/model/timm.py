"""Any model of timm (pytorch-image-models), by name; needs the extra `timm`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from dnntrain.choices.model._adapters import build_and_check
from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice
from dnntrain.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Timm(ModelChoice):
    """timm.create_model(arch) with the data's classes and channels.

    It gets the data's image size too if the model has a fixed one.
    """

    label_key: ClassVar[str] = "name"

    name: str = "resnet18"  # name of the model from timm.list_models(), with or without a tag of weights
    pretrained: bool = False  # true: timm's pretrained weights, from its cache or downloaded from its hub
    drop_path: Fraction | None = None  # probability of dropping a residual branch; null: the model's default

    def build(self, shape: ModelShape) -> nn.Module:
        try:
            import timm
        except ImportError:
            raise ConfigError("model=timm needs the package timm", "install it: pip install 'dnntrain[timm]'") from None

        name = self.name.partition(".")[0]
        if not timm.is_model(name):
            raise ConfigError(
                f"model.name={self.name}: timm {timm.__version__} has no such model; "
                + did_you_mean(name, timm.list_models())
            )
        if self.pretrained and not timm.models.is_model_pretrained(name):
            raise ConfigError(f"model.pretrained=true: timm has no weights for {name}", "use model.pretrained=false")
        arguments = {"num_classes": shape.num_classes, **get_architecture_arguments(name, shape)}
        if self.drop_path is not None:
            arguments["drop_path_rate"] = self.drop_path
        model = build_and_check(
            partial(create_timm_model, self.name, self.pretrained, arguments), shape, f"model.name={self.name}"
        )
        model.timm_architecture = (name, get_architecture_arguments(name, shape))  # type: ignore[assignment]
        return model


def create_timm_model(arch: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    """Create the model with timm."""
    import timm

    model: nn.Module = timm.create_model(arch, pretrained=pretrained, **arguments)
    return model


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
