"""Dropout.

Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.nn.validate_transform import validate_transform
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Hooks,
    ModelStage,
    ModelTransform,
    RegChoice,
    Role,
)


@dataclass(frozen=True)
class Dropout(RegChoice):
    """Set numbers to 0 with `probability` p while training; divide the rest by 1 - p.

    It works in the models of libraries too.
    """

    probability: Fraction = 0.1  # probability of dropping a value
    modules: str | None = "*"  # pattern of the model's dropout modules to set, as classifier.*; null: none
    before_modules: str | None = (
        None  # pattern of linear and convolution layers whose inputs get a dropout, as head; null: none
    )

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.DROPOUT, f"reg.dropout.probability={self.probability}", "reg.dropout"),)

    def build(self, context: BuildContext) -> Hooks:
        transform = ModelTransform(ModelStage.STRUCTURE, partial(apply_dropout, self))
        return Hooks(model_transforms=(validate_transform(transform, context),))


def apply_dropout(options: Dropout, model: nn.Module) -> nn.Module:
    """Set the dropout rates of `model`; parameters keep their names.

    Raises ConfigError if a pattern matches nothing.
    """
    dropout_modules = {
        name: module for name, module in model.named_modules() if isinstance(module, _DropoutNd | nn.MultiheadAttention)
    }
    dropout_names = [
        name for name in dropout_modules if options.modules is not None and fnmatchcase(name, options.modules)
    ]
    layers = dict(iterate_plain_layers(model))
    layer_names = [
        name for name in layers if options.before_modules is not None and fnmatchcase(name, options.before_modules)
    ]
    if options.before_modules is not None and not layer_names:
        raise ConfigError(
            f"reg.dropout.before_modules={options.before_modules} matches no linear or convolution layer of the model, "
            f"which has {format_names(layers)}"
        )
    if not dropout_names and (options.modules not in ("*", None) or not layer_names):
        raise ConfigError(
            f"reg.dropout.modules={options.modules} matches no dropout module of the model, "
            f"which has {format_names(dropout_modules)}",
            "correct it, set model.dropout if the network has it, or add dropout before a layer: "
            f"reg.dropout.before_modules={list(layers)[-1] if layers else 'head'}",
        )
    for name in dropout_names:
        # torch's attention stores the rate of its weights under another name.
        setattr(
            dropout_modules[name],
            "dropout" if isinstance(dropout_modules[name], nn.MultiheadAttention) else "p",
            options.probability,
        )
    for name in layer_names:
        insert_before(layers[name], nn.Dropout(options.probability))
    return model


def iterate_plain_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear and convolution layers that the model calls.

    Layers whose weights an attention module uses directly are left out.
    """
    attentions = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd) and not name.startswith(attentions):
            yield name, module


def insert_before(layer: nn.Module, dropout: nn.Dropout) -> None:
    """Pass the inputs of `layer`, a leaf, through `dropout`, which becomes its child."""
    layer.add_module("input_dropout", dropout)
    layer.register_forward_pre_hook(_drop_inputs)


def _drop_inputs(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.get_submodule("input_dropout")(inputs[0]), *inputs[1:])


def format_names(names: Any, limit: int = 12) -> str:
    """Return the first names, for an error message."""
    names = [name for name in names if name]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"
