"""A decoder-only transformer: tokens → logits of the next token, or of the whole text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnntrain.nn.decoder_block import DecoderBlock, make_norm
from dnntrain.nn.language_module import LanguageModule
from dnntrain.protocols import DeferredLogits

#: Width of a head at which both scales of attention agree: sqrt(64) / 64 = 1 / sqrt(64).
_BASE_HEAD_WIDTH = 64


@dataclass(frozen=True)
class DecoderShape:
    """The sizes and parts of a decoder.

    vocabulary  number of tokens that it reads
    outputs     numbers of the last layer: the vocabulary, or classes
    context     the most tokens that it reads
    rope_base   base of the wavelengths of rotary positions; 0: positions are learned
    separator   the token that begins a document, if a token sees its own document only
    per_token   whether there are outputs for each token, not for the text
    norm_eps    added to the mean square that a normalization divides by
    growth      width / base width if the network is parametrized for transfer over widths, else None
    """

    vocabulary: int
    outputs: int
    context: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    activation: str
    norm: str
    rope_base: float
    qk_norm: bool
    bias: bool
    tied_head: bool
    softcap: float
    dropout: float
    separator: int | None
    per_token: bool
    norm_eps: float = 1e-5
    growth: float | None = None

    @property
    def attention_scale(self) -> float | None:
        """The factor on products of queries and keys: 1 / sqrt(width of a head) if it is None."""
        return None if self.growth is None else math.sqrt(_BASE_HEAD_WIDTH) / (self.width // self.heads)


class Decoder(LanguageModule):
    """Tokens int64 [n, length] → logits [n, length, outputs], or [n, outputs] from the last token."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape, self.context = shape, shape.context
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = None if shape.rope_base else nn.Embedding(shape.context, shape.width)
        self.drop = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()
        self.blocks = nn.ModuleList(
            DecoderBlock(
                shape.width,
                shape.heads,
                shape.kv_heads,
                shape.hidden,
                shape.context,
                activation=shape.activation,
                norm=shape.norm,
                rope_base=shape.rope_base,
                qk_norm=shape.qk_norm,
                bias=shape.bias,
                dropout=shape.dropout,
                norm_eps=shape.norm_eps,
                attention_scale=shape.attention_scale,
            )
            for _ in range(shape.depth)
        )
        self.norm = make_norm(shape.norm, shape.width, shape.bias, shape.norm_eps)
        self.head = nn.Linear(shape.width, shape.outputs, bias=False)
        if shape.tied_head and shape.per_token:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = self.make_mask(tokens)
        features = self.embed_tokens(tokens)
        for block in self.blocks:
            features = block(features) if mask is None else block(features, mask)
        return self.finish(features)

    def embed_tokens(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Map tokens, of which the first has the position `first`, to features [n, length, width]."""
        features: Tensor = self.embed(tokens)
        if self.positions is not None:
            features = features + self.positions.weight[first : first + tokens.shape[1]]
        features = self.split_sequence(features)
        dropped: Tensor = self.drop(features)
        return dropped

    def finish(self, features: Tensor) -> Tensor:
        """Map the features of the last block to logits, which may be deferred."""
        if not self.shape.per_token:
            logits: Tensor = self.head(self.read_out(self.join_sequence(features)[:, -1]))
            return logits
        features = self.join_sequence(self.read_out(features))
        shard = self.head_shard
        if self.defers_logits and is_plain_linear(self.head, is_sharded=shard is not None):
            dtype = _get_product_dtype(features)
            # Not the parameter itself, on which a hook would stay from step to step.
            weight = self.head.weight if shard is None else shard.get_weight()
            weight = (weight.clone() if self.copies_outputs else weight.view_as(weight)).to(dtype)
            if self.copies_outputs and self.sequence is not None:
                features = features.clone()
            return DeferredLogits(features.to(dtype), weight, self.shape.softcap, shard)  # type: ignore[return-value]
        return self.cap_logits(self.head(features))

    def read_out(self, features: Tensor) -> Tensor:
        """Return the inputs of the last layer."""
        normed: Tensor = self.norm(features)
        return normed if self.shape.growth is None else normed / self.shape.growth

    def cap_logits(self, logits: Tensor) -> Tensor:
        """Return logits within the bound of the options."""
        cap = self.shape.softcap
        return cap * (logits / cap).tanh() if cap else logits

    def make_mask(self, tokens: Tensor) -> Tensor | None:
        """Return bool [n, 1, length, length]: which tokens each token sees; None for all before it."""
        if self.shape.separator is None:
            return None
        documents = (tokens == self.shape.separator).cumsum(1)
        is_same = documents[:, None, :, None] == documents[:, None, None, :]
        return is_same.tril()

    def make_cache(self, count: int) -> Sequence[Tensor]:
        """Return keys and values [2, n, heads, context, width] of each block, empty."""
        weight = self.head.weight
        return [
            weight.new_zeros(2, count, block.attn.count_kv_heads(), self.context, block.attn.head_width)
            for block in self._list_blocks().values()
        ]

    def _list_blocks(self) -> dict[int, DecoderBlock]:
        """Return the blocks by number, without those that pruning has removed."""
        return {number: block for number, block in enumerate(self.blocks) if isinstance(block, DecoderBlock)}

    def extend(self, tokens: Tensor, cache: Sequence[Tensor], position: int) -> Tensor:
        features = self.embed_tokens(tokens, position)
        for block, memory in zip(self._list_blocks().values(), cache, strict=True):
            features = block.extend(features, memory, position)
        return self.cap_logits(self.head(self.read_out(features[:, -1])))

    def sections(self) -> list[tuple[tuple[str, ...], Callable[[Tensor], Tensor]]]:
        """Return the forward pass as consecutive sections, for pipeline stages; none if it cannot be divided.

        Masks of documents and a tied head belong to several stages.
        """
        if self.shape.separator is not None or (self.shape.tied_head and self.shape.per_token):
            return []
        blocks = [((f"blocks.{number}",), block) for number, block in enumerate(self.blocks)]
        first = ("embed",) if self.positions is None else ("embed", "positions")
        return [(first, self.embed_tokens), *blocks, (("norm", "head"), self.finish)]

    def tensor_parallel_plan(self) -> dict[str, str]:
        """Return how layers are sharded over tensor-parallel ranks.

        A tied head stays whole, since it is the embedding. The last norm of a classifier reads joined features.
        """
        blocks = {
            f"blocks.{number}.{name}": style
            for number, block in self._list_blocks().items()
            for name, style in block.list_divisions().items()
        }
        has_own_head = self.shape.per_token and not self.shape.tied_head and type(self.head) is nn.Linear
        last_norm = {"norm": "positions"} if self.shape.per_token else {}
        head = {"head": "vocabulary"} if has_own_head else {}
        return {"drop": "positions", **blocks, **last_norm, **head}

    def get_rate_factors(self) -> dict[str, float]:
        """Return the factor on the rate of Adam of each hidden matrix: 1 / growth."""
        if self.shape.growth is None:
            return {}
        layers = ((f"blocks.{name}.weight", layer) for name, layer in self.blocks.named_modules())
        return {name: 1 / self.shape.growth for name, layer in layers if isinstance(layer, nn.Linear)}

    @property
    def _hidden_std(self) -> float:
        return 0.02 / math.sqrt(self.shape.growth or 1.0)

    def weight_scheme(self, module: nn.Module) -> None:
        """Initialize weights with a normal of standard deviation 0.02, biases with 0 (Radford et al., 2019).

        With `growth`, hidden matrices have 0.02 / sqrt(growth).
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            is_hidden = isinstance(module, nn.Linear) and module is not self.head
            nn.init.normal_(module.weight, std=self._hidden_std if is_hidden else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def initialize_own_parameters(self) -> None:
        """Divide the deviation of the last layer of each branch by sqrt(branches), so that their sum is as large."""
        for block in self._list_blocks().values():
            for layer in (block.attn.proj, block.mlp.down):
                nn.init.normal_(layer.weight, std=self._hidden_std / math.sqrt(2 * len(self.blocks)))
        if self.shape.tied_head and self.shape.per_token:
            nn.init.normal_(self.embed.weight, std=0.02)


def is_plain_linear(layer: nn.Module, is_sharded: bool = False) -> bool:
    """Return whether `layer` computes inputs @ weight.T and nothing else, seen or changed by nobody.

    Tensor parallelism gives a sharded layer a forward pass of its own.
    """
    has_hooks = bool(layer._forward_hooks or layer._forward_pre_hooks)
    return type(layer) is nn.Linear and not has_hooks and (is_sharded or "forward" not in vars(layer))


def _get_product_dtype(features: Tensor) -> torch.dtype:
    """Return the number format of matrix products here, under autocast or not."""
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
