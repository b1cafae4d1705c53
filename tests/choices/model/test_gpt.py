"""model=gpt: causality, parts, positions, documents, and its memory of a text."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from dnntrain.choices.model.gpt import Gpt
from dnntrain.errors import ConfigError
from dnntrain.nn.decoder import Decoder
from dnntrain.nn.decoder_block import make_rotations, rotate
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import DeferredLogits
from dnntrain.pruning.cut import cut_model, make_cut
from dnntrain.pruning.trace import find_groups
from dnntrain.pruning.widths import Widths, apply_widths

SHAPE = ModelShape(50, 12, vocabulary=50, per_token=True)
SMALL = Gpt(embed_dim=16, depth=2, num_heads=4)
PARTS = {
    "plain": SMALL,
    "llama": dataclasses.replace(SMALL, mlp="swiglu", num_kv_heads=2),
    "modern": dataclasses.replace(SMALL, mlp="relu2", qk_norm=True, softcap=5.0),
    "gpt2": dataclasses.replace(SMALL, norm="layer", positions="learned", bias=True, tied_head=True),
}


def build(choice: Gpt, shape: ModelShape = SHAPE) -> Decoder:
    model = choice.build(shape)
    assert isinstance(model, Decoder)
    initialize_weights(model, 0)
    return model.eval()


def make_tokens(count: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(1, 50, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PARTS)
def test_a_token_sees_those_before_it_only(name: str) -> None:
    model, tokens = build(PARTS[name]), make_tokens()
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 3) % 50
    outputs, others = model(tokens), model(changed)
    assert outputs.shape == (2, 12, 50)
    torch.testing.assert_close(outputs[:, :7], others[:, :7])
    assert not torch.allclose(outputs[:, 8:], others[:, 8:])


@pytest.mark.parametrize("name", PARTS)
def test_the_memory_of_a_text_gives_the_same_logits(name: str) -> None:
    model, tokens = build(PARTS[name]), make_tokens()
    with torch.no_grad():
        expected = model(tokens)
        cache = model.make_cache(2)
        outputs = [model.extend(tokens[:, :5], cache, 0)]
        outputs += [model.extend(tokens[:, place : place + 1], cache, place) for place in range(5, 12)]
        again = model.make_cache(2)
        model.extend(tokens[:, :4], again, 0)
        torch.testing.assert_close(model.extend(tokens[:, 4:9], again, 4), expected[:, 8], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.stack(outputs, 1), expected[:, 4:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PARTS)
def test_the_memory_of_a_pruned_network_has_its_heads(name: str) -> None:
    model, tokens = build(PARTS[name]), make_tokens()
    groups = find_groups(model, SHAPE.make_zeros(1)).groups
    assert [group.name.rpartition(".")[2][0] for group in groups] == ["q", "u"] * 2
    cut = make_cut(model, {0: [1], 1: [3, 4]}, groups, Widths())
    with torch.no_grad():
        smaller = apply_widths(cut_model(model, cut), Widths(dropped=("blocks.1",)))
        assert isinstance(smaller, Decoder)
        outputs = smaller.extend(tokens, smaller.make_cache(2), 0)
        torch.testing.assert_close(outputs, smaller(tokens)[:, -1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PARTS)
def test_deferred_logits_are_the_logits(name: str) -> None:
    model, tokens = build(PARTS[name]), make_tokens()
    expected = model(tokens)
    model.defers_logits = True
    deferred = model(tokens)
    assert isinstance(deferred, DeferredLogits)
    torch.testing.assert_close(deferred.compute(), expected)
    model.head.register_forward_hook(lambda module, inputs, output: None)
    assert isinstance(model(tokens), torch.Tensor)


def test_packed_documents_give_the_logits_of_each_alone() -> None:
    model = build(PARTS["llama"], dataclasses.replace(SHAPE, separator=0))
    tokens = make_tokens(1)
    tokens[0, [0, 3, 8]] = 0
    packed = model(tokens)
    for start, end in ((0, 3), (3, 8), (8, 12)):
        torch.testing.assert_close(packed[:, start:end], model(tokens[:, start:end]), rtol=1e-5, atol=1e-6)
    assert model.sections() == []


def test_scores_depend_on_the_distance_of_positions_only() -> None:
    cos, sin = make_rotations(32, 8, 10000.0)
    torch.manual_seed(0)
    query, key = torch.randn(8), torch.randn(8)
    scores = [
        float(rotate(query, cos[place + 3], sin[place + 3]) @ rotate(key, cos[place], sin[place]))
        for place in (0, 5, 20)
    ]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-4)
    torch.testing.assert_close(rotate(query, cos[0], sin[0]), query)


def test_sections_are_the_network() -> None:
    model, tokens = build(PARTS["plain"]), make_tokens()
    features = tokens
    for _, apply in model.sections():
        features = apply(features)
    torch.testing.assert_close(features, model(tokens))
    assert build(PARTS["gpt2"]).sections() == []


def test_a_text_is_classified_from_its_last_token() -> None:
    model = build(SMALL, ModelShape(3, 12, vocabulary=50))
    assert model(make_tokens()).shape == (2, 3)


@pytest.mark.slow
def test_the_preset_has_the_parameters_of_gpt2() -> None:
    choice = Gpt(embed_dim=768, depth=12, num_heads=12, positions="learned", norm="layer", bias=True, tied_head=True)
    with torch.device("meta"):
        model = choice.build(ModelShape(50257, 1024, vocabulary=50257, per_token=True))
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


def test_a_tied_head_is_the_embedding() -> None:
    model = build(PARTS["gpt2"])
    assert model.head.weight is model.embed.weight
    assert isinstance(model.positions, nn.Embedding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "is not a multiple of model.num_heads=3"),
        ({"num_kv_heads": 3}, "is not a multiple of model.num_kv_heads=3"),
        ({"num_heads": 16}, "needs heads of an even width"),
        ({"max_context": 8}, "data.context=12 is longer than model.max_context=8"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **options).build(SHAPE)
