"""Which tensors of a decoder are which of transformers': names, and joined or transposed matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dnntrain.nn.decoder import DecoderShape


@dataclass(frozen=True)
class Part:
    """A tensor of ours, and those of transformers that it joins along the first dimension.

    is_transposed  theirs is [inputs, outputs], as in GPT-2's `Conv1D`
    """

    name: str
    theirs: tuple[str, ...]
    is_transposed: bool = False

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return our tensor from theirs."""
        parts = [tensors[name].T if self.is_transposed else tensors[name] for name in self.theirs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Return their tensors from ours."""
        parts = tensor.chunk(len(self.theirs))
        return {
            name: (part.T if self.is_transposed else part).contiguous()
            for name, part in zip(self.theirs, parts, strict=True)
        }


def list_parts(family: str, shape: DecoderShape) -> list[Part]:
    """Return the tensors of a network of `family` ("gpt2" or "llama"), without a tied head."""
    make = _iterate_gpt2 if family == "gpt2" else _iterate_llama
    has_head = shape.per_token and not shape.tied_head
    return [*make(shape), *([Part("head.weight", ("lm_head.weight",))] if has_head else [])]


def _iterate_gpt2(shape: DecoderShape) -> Iterator[Part]:
    yield Part("embed.weight", ("transformer.wte.weight",))
    yield Part("positions.weight", ("transformer.wpe.weight",))
    layers = {"norm1": "ln_1", "attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj"}
    layers |= {"norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for number in range(shape.depth):
        for ours, theirs in layers.items():
            their_name = f"transformer.h.{number}.{theirs}"
            yield Part(f"blocks.{number}.{ours}.weight", (f"{their_name}.weight",), ".c_" in theirs)
            yield Part(f"blocks.{number}.{ours}.bias", (f"{their_name}.bias",))
    for kind in ("weight", "bias"):
        yield Part(f"norm.{kind}", (f"transformer.ln_f.{kind}",))


def _iterate_llama(shape: DecoderShape) -> Iterator[Part]:
    yield Part("embed.weight", ("model.embed_tokens.weight",))
    layers = {"attn.proj": ("self_attn.o_proj",), "mlp.up": ("mlp.gate_proj", "mlp.up_proj")}
    layers["mlp.down"] = ("mlp.down_proj",)
    if shape.heads == shape.kv_heads:
        layers["attn.qkv"] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    else:
        layers |= {"attn.q": ("self_attn.q_proj",), "attn.kv": ("self_attn.k_proj", "self_attn.v_proj")}
    norms = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
    for number in range(shape.depth):
        prefix = f"model.layers.{number}."
        for ours, name in norms.items():
            yield Part(f"blocks.{number}.{ours}.weight", (f"{prefix}{name}.weight",))
        for kind in ("weight", "bias") if shape.bias else ("weight",):
            for ours, names in layers.items():
                yield Part(f"blocks.{number}.{ours}.{kind}", tuple(f"{prefix}{name}.{kind}" for name in names))
    yield Part("norm.weight", ("model.norm.weight",))
