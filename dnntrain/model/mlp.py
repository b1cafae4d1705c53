"""A multi-layer perceptron on the flattened image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from dnntrain.config.fields import Fraction, Literal, PositiveInt
from dnntrain.model.schemes import SCHEMES, Scheme
from dnntrain.model.shape import ModelShape


@dataclass(frozen=True)
class Mlp:
    """Linear layers with ReLU between; images of any size."""

    hidden: tuple[PositiveInt, ...] = (64,)  # widths of the hidden layers; none: logistic regression
    dropout: Fraction = 0.0  # probability of dropping a feature after each hidden layer
    init: Literal["default", "kaiming", "orthogonal"] = "default"  # scheme of first weights

    def build(self, shape: ModelShape) -> nn.Module:
        return Perceptron((shape.inputs, *self.hidden), shape.num_classes, self.dropout, SCHEMES[self.init])


class Perceptron(nn.Module):
    """Images [n, …] → logits [n, classes]; `widths` holds the number of inputs, then the width of each hidden layer."""

    def __init__(self, widths: tuple[int, ...], num_classes: int, dropout: float, weight_scheme: Scheme) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.head = nn.Linear(widths[-1], num_classes)
        self.dropout = nn.Dropout(dropout)
        self.weight_scheme = weight_scheme

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)
        for layer in self.layers:
            features = self.dropout(functional.relu(layer(features), inplace=True))
        logits: Tensor = self.head(features)
        return logits
