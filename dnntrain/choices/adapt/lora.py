"""Low-rank adapters (Hu et al., "LoRA: low-rank adaptation of large language models", 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import nn

from dnntrain.config.fields import Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.lora import find_adaptable_layers, insert_adapter, merge_adapters
from dnntrain.nn.shape import find_head_modules
from dnntrain.protocols import (
    AdaptChoice,
    BuildContext,
    Claim,
    Hooks,
    LayoutRequirement,
    ModelStage,
    ModelTransform,
    Role,
)
from dnntrain.utils.suggest import find_nearest

#: Names that an error message lists.
_MAX_LISTED = 8


@dataclass(frozen=True)
class Lora(AdaptChoice):
    """Train a matrix of low rank beside the weight of each linear layer, and nothing else.

    A layer computes x Wᵀ + b + (alpha / rank) (x Dᵀ) Uᵀ. W has no gradient and no optimizer state.
    The saved model has W + (alpha / rank) U D in the place of W, so that it is the plain network.
    """

    rank: PositiveInt = 8  # rank of the change of each weight
    alpha: Positive = 16.0  # the change is multiplied by alpha / rank
    layers: str | None = None  # pattern of the linear layers with an adapter, as *.qkv; null: all but the head
    train: tuple[str, ...] = ()  # patterns of other parameters that are trained too, as head.*

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_LAYER})

    def get_claims(self) -> tuple[Claim, ...]:
        return (
            Claim(Role.LINEAR_FORM, "adapt=lora", "use adapt=none"),
            Claim(Role.LAYER_WEIGHTS, "adapt=lora", "train the adapters first, then prune with init_from=RUN"),
        )

    def notes(self, has_weights: bool) -> tuple[str, ...]:
        if has_weights:
            return ()
        return ("adapt=lora keeps the initial weights, which are random without init_from=RUN",)

    def build(self, context: BuildContext) -> Hooks:
        return Hooks(
            model_transforms=(ModelTransform(ModelStage.STRUCTURE, self.convert),), export_transforms=(merge_adapters,)
        )

    def convert(self, model: nn.Module) -> nn.Module:
        """Insert the adapters in place, and freeze all that is not trained.

        Raises ConfigError if a pattern matches nothing.
        """
        adaptable = find_adaptable_layers(model)
        names = select_layers(adaptable, self.layers, find_head_modules(model))
        parameters = dict(model.named_parameters())
        for pattern in self.train:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                nearest = find_nearest(pattern, list(parameters))
                raise ConfigError(
                    f"adapt.train: {pattern!r} matches no parameter of the model",
                    f"did you mean {nearest!r}?" if nearest else f"its head is {_join(find_head_modules(model))}",
                )
        for name, parameter in parameters.items():
            if not any(fnmatchcase(name, pattern) for pattern in self.train):
                parameter.requires_grad_(False)
        for name in names:
            insert_adapter(model.get_submodule(name), self.rank, self.alpha / self.rank)
        return model


def select_layers(names: Sequence[str], pattern: str | None, head: Sequence[str]) -> list[str]:
    """Return the names that `pattern` matches, or all but the head. Raises ConfigError for none."""
    if pattern is not None:
        selected = [name for name in names if fnmatchcase(name, pattern)]
        if selected:
            return selected
        nearest = find_nearest(pattern, list(names))
        hint = f"did you mean {nearest!r}?" if nearest else "use another pattern"
        raise ConfigError(
            f"adapt.layers={pattern} matches no linear layer that can have an adapter; the model has {_join(names)}",
            hint if names else "use adapt=none, or a network with linear layers, as model=vit_tiny",
        )
    selected = [name for name in names if name not in head]
    if selected:
        return selected
    raise ConfigError(
        "adapt=lora needs linear layers besides the head, and the model has none",
        f"use adapt.layers={names[-1]}, or model=vit_tiny" if names else "use adapt=none, or model=vit_tiny",
    )


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return (", ".join(names[:_MAX_LISTED]) or "none") + more
