"""Vision transformer (Dosovitskiy et al., 2021) of DeiT-Ti's size (Touvron et al., 2021).

Modules and parameters have timm's names, so that weights of its `vit_tiny_patch16_224` load here
and weights of this model load there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model._init_schemes import InitScheme
from dnntrain.config.fields import Fraction, Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ModelChoice

#: The default patch size gives at least _MIN_PATCHES patches; more than _MAX_PATCHES are an error.
_MIN_PATCHES, _MAX_PATCHES = 49, 1024


@dataclass(frozen=True)
class VitTiny(ModelChoice):
    """Pre-norm transformer blocks on patches and a class token, which the head classifies.

    Positions are learned.
    """

    has_convolutions: ClassVar[bool | None] = True
    has_blocks: ClassVar[bool | None] = True

    patch_size: PositiveInt | None = None  # side of a patch, pixels; null: the largest up to 16 that gives 49 patches
    embed_dim: PositiveInt = 192  # width of a token
    depth: PositiveInt = 12  # number of transformer blocks
    num_heads: PositiveInt = 3  # attention heads; must divide embed_dim
    mlp_ratio: Positive = 4.0  # hidden width of a block's perceptron, as a multiple of embed_dim
    dropout: Fraction = 0.0  # probability of dropping a value after attention and within the perceptron

    def build(self, shape: ModelShape) -> nn.Module:
        if self.embed_dim % self.num_heads:
            raise ConfigError(f"model.embed_dim={self.embed_dim} is not a multiple of model.num_heads={self.num_heads}")
        patch = self.patch_size or choose_patch(shape.height, shape.width)
        if shape.height % patch or shape.width % patch:
            raise ConfigError(
                f"model.patch_size={patch} does not divide images of {shape.height}x{shape.width} pixels",
                f"use model.patch_size={choose_patch(shape.height, shape.width)}",
            )
        patches = (shape.height // patch) * (shape.width // patch)
        if patches > _MAX_PATCHES:
            raise ConfigError(
                f"{shape.height}x{shape.width} pixels give {patches} patches of {patch}x{patch}; "
                f"at most {_MAX_PATCHES} are supported",
                "resize the images to sides with a common divisor, or set a larger model.patch_size",
            )
        model = VisionTransformer(
            shape,
            patch,
            patches,
            self.embed_dim,
            self.depth,
            self.num_heads,
            int(self.embed_dim * self.mlp_ratio),
            self.dropout,
        )
        model.timm_architecture = ("vit_tiny_patch16_224", self.get_timm_arguments(shape, patch))
        return model

    def get_timm_arguments(self, shape: ModelShape, patch: int) -> dict[str, Any]:
        """Return the arguments with which timm builds the same architecture."""
        return {
            "in_chans": shape.channels,
            "img_size": [shape.height, shape.width],
            "patch_size": patch,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
        }


def choose_patch(height: int, width: int) -> int:
    """Return the largest patch side up to 16 that gives 49 patches or more, else 1.

    It divides both sides of the image: 8x8 → 1, 28x28 → 4, 32x32 → 4, 64x64 → 8, 224x224 → 16.
    """
    divisors = [side for side in range(1, 17) if height % side == 0 and width % side == 0]
    return max((side for side in divisors if (height // side) * (width // side) >= _MIN_PATCHES), default=1)


class VisionTransformer(nn.Module):
    """Images [n, channels, height, width] → logits [n, classes]."""

    def __init__(
        self,
        shape: ModelShape,
        patch: int,
        patches: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, dim))
        self.patch_embed = PatchEmbedding(shape.channels, dim, patch)
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads, hidden, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, shape.num_classes)
        self.weight_scheme: InitScheme = initialize_small_normal
        self.timm_architecture: tuple[str, dict[str, Any]] | None = None

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.blocks(self.embed(images)))

    def embed(self, images: Tensor) -> Tensor:
        """Map images to tokens [n, 1 + patches, dim]."""
        patches = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed

    def classify(self, tokens: Tensor) -> Tensor:
        """Map tokens to logits [n, classes], from the class token."""
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages."""
        blocks = [((f"blocks.{number}",), block) for number, block in enumerate(self.blocks)]
        return [(("cls_token", "pos_embed", "patch_embed"), self.embed), *blocks, (("norm", "head"), self.classify)]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks."""
        inner = {"attn.qkv": "columns/3", "attn.proj": "rows", "mlp.fc1": "columns", "mlp.fc2": "rows"}
        return {f"blocks.{number}.{name}": style for number in range(len(self.blocks)) for name, style in inner.items()}

    def initialize_own_parameters(self) -> None:
        """Initialize positions with standard deviation 0.02, the class token with 1e-6."""
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)


class PatchEmbedding(nn.Module):
    """One linear map of each patch.

    Images [n, channels, height, width] → tokens [n, patches, dim].
    """

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.proj(images)
        return projected.flatten(2).transpose(1, 2)


class TransformerBlock(nn.Module):
    """x + attention(norm1(x)), then x + perceptron(norm2(x))."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = TokenPerceptron(dim, hidden, dropout)
        self.drop_path1 = nn.Identity()
        self.drop_path2 = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path1(self.attn(self.norm1(tokens)))
        inner: Tensor = self.drop_path2(self.mlp(self.norm2(tokens)))
        return tokens + inner


class Attention(nn.Module):
    """Multi-head self-attention over tokens [n, length, dim]."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.qkv.parallel_units = heads  # type: ignore[assignment]  # tensor parallelism shards by heads
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)
        self.head_width = dim // heads

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, _ = tokens.shape
        # A tensor-parallel rank holds a shard of the heads.
        qkv = self.qkv(tokens)
        heads = qkv.shape[-1] // (3 * self.head_width)
        query, key, value = qkv.view(n, length, 3, heads, self.head_width).permute(2, 0, 3, 1, 4)
        attention = functional.scaled_dot_product_attention(query, key, value)
        outputs: Tensor = self.drop(self.proj(attention.transpose(1, 2).flatten(2)))
        return outputs


class TokenPerceptron(nn.Module):
    """linear → GELU → linear on each token."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.drop(self.fc2(self.drop(functional.gelu(self.fc1(tokens)))))
        return outputs


def initialize_small_normal(module: nn.Module) -> None:
    """Initialize linear weights with a normal of standard deviation 0.02, biases with 0.

    DeiT truncates the normal at 2, a hundred deviations away.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
