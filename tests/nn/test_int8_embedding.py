"""Embeddings of 8-bit integers: a quarter of the size, each number within half a step, shared with a tied last layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dnntrain.nn.decoder import Decoder, DecoderShape
from dnntrain.nn.int8_embedding import Int8Embedding, Int8TiedLinear, quantize_embeddings

SHAPE = DecoderShape(
    vocabulary=40,
    outputs=40,
    context=8,
    width=16,
    depth=1,
    heads=2,
    kv_heads=2,
    hidden=32,
    activation="gelu",
    norm="rms",
    rope_base=1e4,
    qk_norm=False,
    bias=False,
    tied_head=True,
    softcap=0.0,
    dropout=0.0,
    separator=None,
    per_token=True,
)


def test_each_number_is_within_half_a_step_of_its_row() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-6], [1], [3], [0], [9]])
    rows = Int8Embedding(weight)
    assert rows.values.dtype == torch.int8
    assert ((rows.weight - weight).abs() <= 0.5001 * weight.abs().amax(1, keepdim=True) / 127).all()
    numbers = torch.tensor([[4, 0], [3, 3]])
    assert torch.equal(rows(numbers), rows.weight[numbers])


@pytest.mark.parametrize(("tied", "count"), [(True, 40 * 16), (False, 40 * 16)])
def test_a_tied_head_shares_the_integers_and_another_stays(tied: bool, count: int) -> None:
    torch.manual_seed(0)
    model = Decoder(replace(SHAPE, tied_head=tied))
    tokens = torch.randint(40, (2, 8))
    expected = model(tokens)
    assert quantize_embeddings(model) == count
    if tied:
        assert isinstance(model.head, Int8TiedLinear)
        assert model.head.values is model.embed.values
        features = torch.randn(3, 16)
        assert torch.allclose(model.head(features), features @ model.embed.weight.T, atol=1e-5)
    else:
        assert type(model.head) is nn.Linear
    assert (model(tokens) - expected).norm() < 0.02 * expected.norm()


def test_learned_positions_are_read_as_weights() -> None:
    torch.manual_seed(0)
    model = Decoder(replace(SHAPE, rope_base=0.0))
    tokens = torch.randint(40, (2, 6))
    expected = model(tokens)
    assert quantize_embeddings(model) == (40 + 8) * 16
    assert (model(tokens) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.slow
def test_the_traced_program_holds_integers_only_once() -> None:
    torch.manual_seed(0)
    model = Decoder(SHAPE).eval()
    quantize_embeddings(model)
    tokens = torch.randint(40, (2, 8))
    program = torch.export.export(model, (tokens,))
    assert torch.allclose(program.module()(tokens), model(tokens), atol=1e-6)
    tensors = {**program.state_dict, **program.constants}
    integers = {tensor.data_ptr() for tensor in tensors.values() if getattr(tensor, "dtype", None) == torch.int8}
    assert len(integers) == 1
