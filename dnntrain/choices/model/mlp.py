"""A multi-layer perceptron on the flattened image, or on the rows of a table."""

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
from dnntrain.nn.table_encoder import TableEncoder
from dnntrain.protocols import ColumnKind, InputKind, ModelChoice


@dataclass(frozen=True)
class Mlp(ModelChoice):
    """Linear layers with ReLU between; images of any size, or rows of a table with embedded categories."""

    has_convolutions: ClassVar[bool | None] = False
    has_blocks: ClassVar[bool | None] = False

    hidden: tuple[PositiveInt, ...] = (64,)  # widths of the hidden layers; []: logistic regression
    dropout: Fraction = 0.0  # probability of dropping a feature after each hidden layer
    init: Literal["default", "kaiming", "orthogonal"] = "default"  # scheme of initialization

    input_kinds: ClassVar[frozenset[InputKind]] = frozenset({InputKind.IMAGES, InputKind.TABLE})

    def build(self, shape: ModelShape) -> nn.Module:
        has_categories = any(column.kind is ColumnKind.CATEGORY for column in shape.columns)
        encoder = TableEncoder(shape.columns) if has_categories else None
        widths = (encoder.width if encoder else shape.num_inputs, *self.hidden)
        return Perceptron(widths, shape.num_classes, self.dropout, INIT_SCHEMES[self.init], encoder)


class Perceptron(nn.Module):
    """Images or rows [n, …] → outputs [n, classes].

    `widths` holds the number of features, then the width of each hidden layer. The features are the
    inputs, or the results of `encoder`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        dropout: float,
        weight_scheme: InitScheme,
        encoder: TableEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.head = nn.Linear(widths[-1], num_classes)
        self.dropout = nn.Dropout(dropout)
        self.weight_scheme = weight_scheme

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1) if self.encoder is None else self.encoder(images)
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
        encoder = [] if self.encoder is None else [(("encoder",), self.encoder)]
        return [*encoder, *hidden, (("head",), lambda features: self.head(features.flatten(1)))]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks."""
        names = [*(f"layers.{number}" for number in range(len(self.layers))), "head"]
        pairs = zip(names[::2], names[1::2], strict=False)
        return {name: style for pair in pairs for name, style in zip(pair, ("columns", "rows"), strict=True)}
