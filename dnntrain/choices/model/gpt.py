"""A decoder-only transformer for text, as in GPT-2 (Radford et al., 2019) and Llama (Touvron et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.nn.decoder import Decoder, DecoderShape
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import InputKind, ModelChoice, OutputKind


@dataclass(frozen=True)
class Gpt(ModelChoice):
    """Pre-norm blocks of causal attention with rotary positions and a perceptron.

    For `task=language_model` it has logits of the next token at each position, for
    `task=classification` logits of the text, from its last token.
    """

    has_convolutions: ClassVar[bool | None] = False
    has_blocks: ClassVar[bool | None] = True
    input_kinds: ClassVar[frozenset[InputKind]] = frozenset({InputKind.TOKENS})
    output_kinds: ClassVar[frozenset[OutputKind]] = frozenset({OutputKind.TOKENS, OutputKind.VECTOR})

    embed_dim: PositiveInt = 128  # width of a token
    depth: PositiveInt = 4  # number of blocks
    num_heads: PositiveInt = 4  # attention heads; must divide embed_dim
    num_kv_heads: PositiveInt | None = None  # heads of keys and values, which query heads share; null: num_heads
    mlp: Literal["gelu", "gelu_tanh", "relu2", "swiglu"] = (
        "gelu"  # perceptron of a block: gelu, gelu_tanh (GPT-2's), relu2 (squared ReLU) or swiglu
    )
    mlp_ratio: Positive = 4.0  # hidden width of the perceptron, as a multiple of embed_dim
    norm: Literal["rms", "layer"] = "rms"  # normalization: rms or layer
    positions: Literal["rope", "learned"] = "rope"  # positions: rope (rotary) or learned
    rope_base: Positive = 10000.0  # base of the wavelengths of rotary positions
    qk_norm: bool = False  # true: queries and keys are normalized, which bounds attention logits
    bias: bool = False  # true: linear layers and layer normalizations have a bias
    tied_head: bool = False  # true: the last layer is the token embedding
    softcap: NonNegative = 0.0  # bound of the logits, cap * tanh(logit / cap); 0: none
    max_context: PositiveInt | None = None  # longest context that the model reads; null: data.context
    dropout: Fraction = 0.0  # probability of dropping a value after attention and within the perceptron
    parametrization: Literal["standard", "mup"] = (
        "standard"  # standard, or mup: the best learning rate of a narrow network is that of a wide one
    )
    base_dim: PositiveInt = 64  # with mup: the width at which both parametrizations have the same rates

    def __post_init__(self) -> None:
        if self.parametrization == "standard" and self.base_dim != 64:
            raise ValueError(f"base_dim={self.base_dim} has no effect with parametrization=standard; use mup")

    def build(self, shape: ModelShape) -> nn.Module:
        heads, kv_heads = self.num_heads, self.num_kv_heads or self.num_heads
        context = self.max_context or shape.channels
        self._check(shape.channels, context, heads, kv_heads)
        return Decoder(
            DecoderShape(
                vocabulary=shape.vocabulary,
                outputs=shape.num_classes,
                context=context,
                width=self.embed_dim,
                depth=self.depth,
                heads=heads,
                kv_heads=kv_heads,
                hidden=int(self.embed_dim * self.mlp_ratio),
                activation=self.mlp,
                norm=self.norm,
                rope_base=self.rope_base if self.positions == "rope" else 0.0,
                qk_norm=self.qk_norm,
                bias=self.bias,
                tied_head=self.tied_head,
                softcap=self.softcap,
                dropout=self.dropout,
                separator=shape.separator,
                per_token=shape.per_token,
                growth=self.embed_dim / self.base_dim if self.parametrization == "mup" else None,
            )
        )

    def _check(self, length: int, context: int, heads: int, kv_heads: int) -> None:
        if self.embed_dim % heads:
            raise ConfigError(f"model.embed_dim={self.embed_dim} is not a multiple of model.num_heads={heads}")
        if self.positions == "rope" and self.embed_dim // heads % 2:
            raise ConfigError(
                f"model.positions=rope needs heads of an even width, and model.embed_dim={self.embed_dim} over "
                f"model.num_heads={heads} is {self.embed_dim // heads}",
                "use model.positions=learned, or another number of heads",
            )
        if heads % kv_heads:
            raise ConfigError(f"model.num_heads={heads} is not a multiple of model.num_kv_heads={kv_heads}")
        if length > context:
            raise ConfigError(
                f"data.context={length} is longer than model.max_context={context}",
                f"use data.context={context}, or model.max_context={length}",
            )
