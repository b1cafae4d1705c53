"""model=hf: networks of transformers compute the same here, and ours there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_texts import RUN, write_texts

import dnntrain
from dnntrain.choices.model.gpt import Gpt
from dnntrain.choices.model.hf import HuggingFace
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.nn.decoder import Decoder
from dnntrain.nn.generation import Sampling, generate_tokens
from dnntrain.nn.hf.folder import write_folder
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape

SHAPE = ModelShape(61, 16, vocabulary=61, per_token=True)
SMALL = Gpt(embed_dim=16, depth=2, num_heads=4, max_context=32)
LLAMA = dataclasses.replace(SMALL, mlp="swiglu", num_kv_heads=2, rope_base=500.0)
OURS = {
    "gpt2": dataclasses.replace(
        SMALL, norm="layer", positions="learned", mlp="gelu_tanh", bias=True, tied_head=True, mlp_ratio=3
    ),
    "gpt2 without biases": dataclasses.replace(SMALL, norm="layer", positions="learned", mlp="relu2"),
    "llama": LLAMA,
    "llama with one kind of heads": dataclasses.replace(LLAMA, num_kv_heads=None, bias=True, tied_head=True),
}


def build(choice: Gpt) -> Decoder:
    """Return a network with random weights, biases and gains."""
    model = choice.build(SHAPE)
    assert isinstance(model, Decoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_tokens() -> torch.Tensor:
    return torch.randint(61, (3, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", OURS)
def test_a_folder_is_read_back_to_the_same_logits(name: str, tmp_path: Path) -> None:
    model = build(OURS[name])
    write_folder(model, tmp_path)
    choice = HuggingFace(str(tmp_path))
    again = choice.build(SHAPE)
    initialize_weights(again, 0)
    choice.check_pretrained_weights(SHAPE)
    torch.testing.assert_close(again.eval()(make_tokens()), model(make_tokens()), rtol=1e-6, atol=1e-6)
    other = choice.without_pretrained_weights().build(SHAPE)
    initialize_weights(other, 0)
    assert not torch.equal(other.head.weight, again.head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_transformers_computes_the_same_logits_and_the_same_greedy_text(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = build(OURS[name])
    write_folder(model, tmp_path / "ours")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", local_files_only=True).eval()
    tokens = make_tokens()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    again = HuggingFace(str(tmp_path / "theirs")).build(SHAPE).eval()
    assert isinstance(again, Decoder)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
    prompt = tokens[0, :5].tolist()
    text = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 5), do_sample=False, max_new_tokens=12, pad_token_id=0
    )
    steps = generate_tokens(again, prompt, 12, Sampling(temperature=0.0), context=32, samples=1, device="cpu")
    assert [step[0] for step in steps] == text[0, 5:].tolist()


def test_weights_in_several_files_and_without_the_prefix_of_the_body_are_read(tmp_path: Path) -> None:
    model = build(OURS["gpt2"])
    write_folder(model, tmp_path)
    tensors = {
        name.removeprefix("transformer."): item for name, item in load_file(tmp_path / "model.safetensors").items()
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    again = HuggingFace(str(tmp_path)).build(SHAPE).eval()
    torch.testing.assert_close(again(make_tokens()), model(make_tokens()))


def test_a_network_for_classes_has_a_new_head(tmp_path: Path) -> None:
    model = build(LLAMA)
    write_folder(model, tmp_path)
    again = HuggingFace(str(tmp_path)).build(dataclasses.replace(SHAPE, num_classes=3, per_token=False))
    initialize_weights(again, 0)
    assert torch.equal(again.embed.weight, model.embed.weight)
    assert again(make_tokens()).shape == (3, 3)


def test_a_folder_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    write_folder(build(LLAMA), tmp_path)
    choice = HuggingFace(str(tmp_path))
    with pytest.raises(ConfigError, match="62 tokens"):
        choice.build(dataclasses.replace(SHAPE, vocabulary=62, num_classes=62))
    with pytest.raises(ConfigError, match=r"use data\.context=32"):
        choice.build(dataclasses.replace(SHAPE, channels=64))
    config = json.loads((tmp_path / "config.json").read_text())
    for changed, message in (
        ({"model_type": "bert"}, "model_type=bert"),
        ({"sliding_window": 8}, "sliding_window=8"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_scaling"),
        ({"intermediate_size": 24}, "other shapes"),
        ({"num_hidden_layers": 3}, "lacks"),
        ({"num_hidden_layers": 1}, "also has"),
        ({"hidden_size": "wide"}, "damaged"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(CheckpointError, match=message):
            choice.check_pretrained_weights(SHAPE)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        choice.check_pretrained_weights(SHAPE)


def test_a_network_that_transformers_does_not_have_says_which_settings_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"llama needs model\.mlp=swiglu; gpt2 needs model\.norm=layer"):
        write_folder(build(SMALL), tmp_path)


@pytest.mark.slow
def test_a_run_is_exported_for_transformers_and_trained_again_from_there(tmp_path: Path) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}"]
    run, export = tmp_path / "run", tmp_path / "hf"
    dnntrain.train(*words, "model.mlp=swiglu", f"run_dir={run}", display="quiet")
    assert main(["export", str(run), "--format", "hf", "--path", str(export)]) == 0
    words = [word for word in words if not word.startswith("model")]
    tuned = tmp_path / "tuned"
    dnntrain.train(*words, "model=hf", f"model.path={export}", "adapt=lora", f"run_dir={tuned}", display="quiet")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = json.loads((tuned / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] < rows[0]["loss"] - 0.1
    assert main(["generate", str(tuned), "--prompt", "Ada", "--tokens", "3"]) == 0
