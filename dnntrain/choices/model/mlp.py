"""A multi-layer perceptron on the flattened image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._init_schemes import INIT_SCHEMES, InitScheme
from dnntrain.config.fields import Fraction, Literal, PositiveInt
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


@dataclass(frozen=True)
class Mlp(ModelChoice):
    """Linear layers with ReLU between; images of any size."""

    has_convolutions: ClassVar[bool | None] = False
    has_blocks: ClassVar[bool | None] = False

    hidden: tuple[PositiveInt, ...] = (64,)  # widths of the hidden layers; []: logistic regression
    dropout: Fraction = 0.0  # probability of dropping a feature after each hidden layer
    init: Literal["default", "kaiming", "orthogonal"] = "default"  # scheme of initialization

    def build(self, shape: ModelShape) -> nn.Module:
        return Perceptron((shape.num_inputs, *self.hidden), shape.num_classes, self.dropout, INIT_SCHEMES[self.init])


class Perceptron(nn.Module):
    """Images [n, …] → logits [n, classes].

    `widths` holds the number of inputs, then the width of each hidden layer.
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int, dropout: float, weight_scheme: InitScheme) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.head = nn.Linear(widths[-1], num_classes)
        self.dropout = nn.Dropout(dropout)
        self.weight_scheme = weight_scheme

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)
        for layer in self.layers:
            features = self.apply_hidden_layer(layer, features)
        logits: Tensor = self.head(features)
        return logits

    def apply_hidden_layer(self, layer: nn.Module, features: Tensor) -> Tensor:
        """Apply one hidden layer to its flattened input, which for the first is an image."""
        activations: Tensor = self.dropout(functional.relu(layer(features.flatten(1)), inplace=True))
        return activations

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages."""
        hidden = [
            ((f"layers.{number}",), partial(self.apply_hidden_layer, layer)) for number, layer in enumerate(self.layers)
        ]
        return [*hidden, (("head",), lambda features: self.head(features.flatten(1)))]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks."""
        names = [*(f"layers.{number}" for number in range(len(self.layers))), "head"]
        pairs = zip(names[::2], names[1::2], strict=False)
        return {name: style for pair in pairs for name, style in zip(pair, ("columns", "rows"), strict=True)}
