"""Dropout (Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from dnntrain.choices.reg._validate import tried
from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.protocols import Context, ModelStage, ModelTransform, Need, Parts


@dataclass(frozen=True)
class Dropout:
    """While training each number is 0 with probability rate, else divided by 1 - rate; in a library's models too."""

    rate: Fraction = 0.1  # probability of dropping a number
    where: str | None = "*"  # names of dropout modules whose rate is set: *, classifier.*; null: none
    before: str | None = None  # names of linear and convolution layers that get a dropout of their inputs

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        transform = ModelTransform(ModelStage.STRUCTURE, partial(with_dropout, self))
        return Parts(model=(tried(transform, context),))


def with_dropout(knobs: Dropout, model: nn.Module) -> nn.Module:
    """`model` with the rates set. Parameters keep their names. Raises ConfigError where a pattern matches nothing."""
    present = {
        name: module for name, module in model.named_modules() if isinstance(module, _DropoutNd | nn.MultiheadAttention)
    }
    found = [name for name in present if knobs.where is not None and fnmatchcase(name, knobs.where)]
    layers = dict(plain_layers(model))
    followed = [name for name in layers if knobs.before is not None and fnmatchcase(name, knobs.before)]
    if knobs.before is not None and not followed:
        raise ConfigError(
            f"reg.dropout.before={knobs.before} is no linear or convolution layer of the model, which has {listed(layers)}"
        )
    if not found and (knobs.where not in ("*", None) or not followed):
        raise ConfigError(
            f"reg.dropout.where={knobs.where} is no dropout module of the model, which has {listed(present)}",
            f"correct it, or put one before a layer: reg.dropout.before={list(layers)[-1] if layers else 'head'}",
        )
    for name in found:
        # torch's attention keeps the rate of its weights as a number of another name.
        setattr(present[name], "dropout" if isinstance(present[name], nn.MultiheadAttention) else "p", knobs.rate)
    for name in followed:
        put_before(layers[name], nn.Dropout(knobs.rate))
    return model


def plain_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear and convolution layers that are called as such: not those whose weights an attention module uses itself."""
    attentions = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd) and not name.startswith(attentions):
            yield name, module


def put_before(layer: nn.Module, dropout: nn.Dropout) -> None:
    """Lets the inputs of `layer`, a leaf, pass through `dropout`, which becomes its child."""
    layer.add_module("input_dropout", dropout)
    layer.register_forward_pre_hook(_drop_inputs)


def _drop_inputs(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.get_submodule("input_dropout")(inputs[0]), *inputs[1:])


def listed(names: Any, most: int = 12) -> str:
    """The first names, for an error message."""
    names = [name for name in names if name]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
