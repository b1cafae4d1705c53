"""The network of PyTorch's MNIST example: two convolutions, one pooling, two linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._init_schemes import INIT_SCHEMES, InitScheme
from dnntrain.config.fields import Fraction, Literal, PositiveInt
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice


@dataclass(frozen=True)
class SmallCnn(ModelChoice):
    """conv 3x3 → ReLU → conv 3x3 → ReLU → max pool 2 → linear → ReLU → linear.

    Images must have at least 6x6 pixels.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = False

    channels: tuple[PositiveInt, PositiveInt] = (32, 64)  # output channels of the two convolutions
    hidden: PositiveInt = 128  # width of the hidden linear layer
    dropout: Fraction = 0.0  # probability of dropping a feature before each linear layer
    init: Literal["default", "kaiming", "orthogonal"] = "default"  # scheme of initialization

    def build(self, shape: ModelShape) -> nn.Module:
        shape.check_min_size("small_cnn", 6)
        return MnistNetwork(shape, self.channels, self.hidden, self.dropout, INIT_SCHEMES[self.init])


class MnistNetwork(nn.Module):
    """Images [n, channels, height, width] → logits [n, classes]."""

    def __init__(
        self, shape: ModelShape, channels: tuple[int, int], hidden: int, dropout: float, weight_scheme: InitScheme
    ) -> None:
        super().__init__()
        pooled_size = channels[1] * ((shape.height - 4) // 2) * ((shape.width - 4) // 2)
        self.conv1 = nn.Conv2d(shape.channels, channels[0], 3)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3)
        self.hidden = nn.Linear(pooled_size, hidden)
        self.head = nn.Linear(hidden, shape.num_classes)
        self.dropout = nn.Dropout(dropout)
        self.weight_scheme = weight_scheme

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.connect(self.pool(self.convolve(images))))

    def convolve(self, images: Tensor) -> Tensor:
        """Apply the first convolution."""
        return functional.relu(self.conv1(images), inplace=True)

    def pool(self, features: Tensor) -> Tensor:
        """Apply the second convolution, pool and flatten."""
        # ReLU commutes with the maximum: after pooling it works on a quarter of the numbers.
        return functional.relu(functional.max_pool2d(self.conv2(features), 2), inplace=True).flatten(1)

    def connect(self, features: Tensor) -> Tensor:
        """Apply the hidden linear layer."""
        return functional.relu(self.hidden(self.dropout(features)), inplace=True)

    def classify(self, features: Tensor) -> Tensor:
        """Apply the last linear layer."""
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages."""
        functions = {"conv1": self.convolve, "conv2": self.pool, "hidden": self.connect, "head": self.classify}
        return [((name,), function) for name, function in functions.items()]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks."""
        return {"conv1": "columns", "conv2": "rows", "hidden": "columns", "head": "rows"}
