"""Low-rank adapters train alone, on every layout, and are merged into the weights of the saved model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_pool import Pool
from safetensors.torch import load_file
from short_runs import broken_off, comparable, result
from small_texts import RUN, write_texts
from test_tasks import assert_equal_rows
from torch import nn

import dnntrain
from dnntrain.checkpoint.read_checkpoint import read_checkpoint
from dnntrain.choices.adapt.lora import Lora
from dnntrain.errors import ConfigError
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.lora import LoraLinear, find_adaptable_layers, insert_adapter, merge_adapters


class Tied(nn.Module):
    """Two layers, of which the second has the weight of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(tokens)))


def test_an_adapter_changes_nothing_at_first_and_is_merged_to_the_same_outputs() -> None:
    model, inputs = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(4, 5)
    initialize_weights(model, 0)
    before = model(inputs)
    insert_adapter(model[0], rank=2, scale=1.5)
    initialize_weights(model, 0)
    assert torch.equal(model(inputs), before)
    with torch.no_grad():
        model[0].lora_up.normal_()
    adapted = model(inputs)
    expected = inputs @ (model[0].weight + 1.5 * model[0].lora_up @ model[0].lora_down).T + model[0].bias
    torch.testing.assert_close(model[0](inputs), expected)
    assert not torch.allclose(adapted, before)
    merge_adapters(model)
    assert type(model[0]) is nn.Linear
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    torch.testing.assert_close(model(inputs), adapted, rtol=1e-5, atol=1e-6)


def test_layers_that_share_a_weight_or_are_not_called_have_no_adapter() -> None:
    assert find_adaptable_layers(Tied()) == ["body"]


def test_only_adapters_and_named_parameters_are_trained() -> None:
    model = Lora(rank=2, train=("embed.*",)).convert(Tied())
    assert isinstance(model.body, LoraLinear)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"embed.weight", "body.lora_down", "body.lora_up"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Lora(layers="bdoy"), "did you mean 'body'"),
        (Lora(layers="head"), "matches no linear layer"),
        (Lora(train=("embde.weight",)), "did you mean 'embed.weight'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(options: Lora, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options.convert(Tied())


def test_a_network_with_a_head_alone_names_it() -> None:
    with pytest.raises(ConfigError, match=r"adapt\.layers=0"):
        Lora().convert(nn.Sequential(nn.Linear(3, 2)))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_adapters_train_alone_on_every_layout_and_the_saved_model_is_plain(pool: Pool, tmp_path: Path) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}", "optim.lr=0.02"]
    dnntrain.train(*words, "seed=1", f"run_dir={tmp_path / 'base'}", display="quiet")
    words += [f"init_from={tmp_path / 'base'}", "adapt=lora", "adapt.rank=2", "adapt.layers=*.attn.*"]
    one = tmp_path / "one"
    assert not pool.train(1, words, one).error
    base, tuned = (load_file(run / "model.safetensors") for run in (tmp_path / "base", one))
    assert base.keys() == tuned.keys()
    changed = {name for name, tensor in base.items() if not torch.equal(tensor, tuned[name])}
    assert changed == {f"blocks.{block}.attn.{layer}.weight" for block in (0, 1) for layer in ("qkv", "proj")}
    states = read_checkpoint(one / "checkpoints" / "step-20").states
    (moments,) = states["optimizer"].values()
    assert len(moments) == 8
    assert all(name.endswith(("lora_down", "lora_up")) for name in moments)
    evaluated = dnntrain.evaluate(str(one))
    assert evaluated["bits_per_byte"] == pytest.approx(result(one)["test_bits_per_byte"], rel=1e-5)
    for ranks, layout in ((2, "parallel=ddp"), (3, "parallel=fsdp")):
        run = tmp_path / layout
        outcome = pool.train(ranks, [*words, layout], run)
        assert not outcome.error, (layout, outcome.error)
        assert_equal_rows(comparable(run), comparable(one))
    # Its last layers, which are the second stage, have no adapter.
    for layout in ("parallel=tp", "parallel=pp"):
        assert pool.train(2, [*words, layout], tmp_path / layout).exit_code == 2
    again = tmp_path / "again"
    broken_off(one, again, 5)
    assert not pool.train(1, words, again).error
    assert result(again)["digest"] == result(one)["digest"]


@pytest.mark.parametrize("method", ["prune=structured", "quant=qat"])
def test_methods_that_change_the_same_weights_are_rejected(method: str) -> None:
    with pytest.raises(ConfigError, match="adapt=lora"):
        dnntrain.plan("adapt=lora", "model=vit_tiny", method)
