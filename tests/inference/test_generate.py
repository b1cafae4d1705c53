"""`dnntrain generate`: with and without the memory of the text, prompts, draws, and its output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_texts import RUN, write_texts

import dnntrain
from dnntrain.choices.model.gpt import Gpt
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.inference.generate import encode_prompt, generate_text
from dnntrain.nn.generation import Sampling, generate_tokens
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.language_module import LanguageModule
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import Vocabulary
from dnntrain.report.generated_texts import render_texts


def build() -> LanguageModule:
    model = Gpt(embed_dim=16, depth=2, num_heads=4, num_kv_heads=2).build(
        ModelShape(50, 12, vocabulary=50, per_token=True)
    )
    initialize_weights(model, 0)
    for parameter in model.parameters():
        parameter.data *= 4  # sharper than at the beginning
    assert isinstance(model, LanguageModule)
    return model.eval()


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(1.0, seed=3), Sampling(0.8, top_k=5)])
def test_the_memory_changes_no_token_past_the_context_too(sampling: Sampling) -> None:
    model = build()
    for prompt in ([3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]):
        cached = list(generate_tokens(model, prompt, 40, sampling, context=12, samples=3))
        plain = list(generate_tokens(lambda tokens: model(tokens), prompt, 40, sampling, context=12, samples=3))
        assert cached == plain
        assert len(cached) == 40


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]).repeat(4000, 1)
    drawn = torch.tensor(Sampling(seed=1).draw(logits, 0)).bincount(minlength=4) / 4000
    torch.testing.assert_close(drawn.double(), logits[0].double().softmax(0), atol=0.03, rtol=0)
    assert set(Sampling(top_k=1).draw(logits, 0)) == {2}
    assert set(Sampling(top_k=2).draw(logits, 5)) == {1, 2}
    assert Sampling(seed=1).draw(logits, 0) == Sampling(seed=1).draw(logits, 0)
    assert Sampling(seed=1).draw(logits, 0) != Sampling(seed=1).draw(logits, 1)
    assert Sampling(temperature=0).draw(logits[:2], 0) == [2, 2]


def test_prompts_that_the_model_cannot_read_are_named() -> None:
    vocabulary = Vocabulary("char", "abc")
    assert encode_prompt("cab", vocabulary, 3) == [2, 0, 1]
    assert encode_prompt("ca", Vocabulary("char", "abc", separates=True), 3) == [3, 2, 0]
    with pytest.raises(ConfigError, match="--prompt: the vocabulary does not have the character 'x'"):
        encode_prompt("ax", vocabulary, 3)
    with pytest.raises(ConfigError, match="--prompt has 4 tokens, and the model reads at most 3"):
        encode_prompt("abca", vocabulary, 3)
    with pytest.raises(ConfigError, match="--prompt must not be empty"):
        encode_prompt("", vocabulary, 3)


@pytest.mark.slow
def test_a_run_continues_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = [word for word in RUN if not word.startswith("train.duration")]
    text = f"data.path={write_texts(tmp_path / 'texts')}"
    dnntrain.train(*words, text, "data.tokenizer=char", "train.duration=5step", f"run_dir={run}", display="quiet")
    generation = generate_text(run, "Ada ", 30, Sampling(seed=2), samples=2)
    assert generation == generation.__class__(
        "Ada ",
        generate_text(run, "Ada ", 30, Sampling(seed=2), samples=2, uses_cache=False).samples,
        generation.tokens_per_s,
    )
    assert main(["generate", str(run), "--prompt", "Ada ", "--tokens", "30", "--seed", "2", "-q"]) == 0
    assert capsys.readouterr().out == f"Ada {generation.samples[0].text}\n"
    assert main(["generate", str(run), "--prompt", "Max", "--json", "--samples", "2", "--temperature", "0"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["prompt"] == "Max"
    assert len(out["samples"]) == 2
    assert main(["generate", str(run), "--prompt", "Ω"]) == 2
    assert main(["generate", str(run), "--top-k", "3", "--temperature", "0"]) == 2
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["surprising_tokens"]
    assert [bool(text) for text in evaluation["samples"]] == [True] * 3
    page = render_texts(evaluation)
    assert page.count("<pre>") == 3
    assert "most surprising tokens" in page
