"""Generate text with a trained model or an export."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dnntrain.errors import ConfigError, DataError
from dnntrain.inference.load import LoadedModel, load_model
from dnntrain.input.tokenizer import encode_text
from dnntrain.nn.generation import ComputeLogits, Sampling, generate_tokens
from dnntrain.nn.language_module import LanguageModule, find_language_module, set_deferred_logits
from dnntrain.protocols import InputKind, TargetKind, Vocabulary

#: Called with the number of a sample and the text that is new.
OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class GeneratedText:
    """A generated text without its prompt. `is_complete` if the model ended the document."""

    text: str
    tokens: int
    is_complete: bool


@dataclass(frozen=True)
class Generation:
    """The texts of a prompt, and the tokens per second of all of them together, after a program is compiled."""

    prompt: str
    samples: tuple[GeneratedText, ...]
    tokens_per_s: float

    def format_speed(self) -> str:
        """Return the speed with at least two digits, as in 0.25 tokens/s."""
        return f"{self.tokens_per_s:.{0 if self.tokens_per_s >= 10 else 2}f} tokens/s"

    def as_json(self) -> dict[str, Any]:
        """Return the output of `dnntrain generate --json`."""
        texts = [
            {"text": sample.text, "tokens": sample.tokens, "complete": sample.is_complete} for sample in self.samples
        ]
        return {"prompt": self.prompt, "samples": texts, "tokens_per_s": round(self.tokens_per_s, 2)}


def generate_text(
    path: Path,
    prompt: str,
    count: int,
    sampling: Sampling,
    *,
    samples: int = 1,
    uses_cache: bool = True,
    overrides: Sequence[str] = (),
    trust: bool = False,
    on_text: OnText = lambda sample, text: None,
) -> Generation:
    """Return `samples` texts of up to `count` tokens that continue `prompt`.

    A text ends when the model begins another document. Raises ConfigError if the model does not
    predict tokens, or if the prompt is too long or has characters that the model does not know.
    """
    loaded_model = load_model(path, overrides, trust)
    vocabulary = loaded_model.spec.inputs.vocabulary
    if vocabulary is None or loaded_model.spec.targets.kind is not TargetKind.TOKENS:
        raise ConfigError(
            f"{path} does not predict {InputKind.TOKENS.value}, so it cannot generate any",
            "train a model with task=language_model, as in: dnntrain experiment=python_gpt",
        )
    context = loaded_model.spec.inputs.shape[0]
    tokens = encode_prompt(prompt, vocabulary, context)
    source = choose_source(loaded_model, uses_cache)
    collector = _Collector(vocabulary, samples, on_text)
    if not isinstance(source, LanguageModule):
        # Programs are compiled in their first call for this number of texts, which is not their speed.
        source(torch.zeros(samples, context, dtype=torch.int64, device=loaded_model.device))
    start_s, steps = time.perf_counter(), 0
    for drawn in generate_tokens(
        source, tokens, count, sampling, context=context, samples=samples, device=loaded_model.device
    ):
        steps += 1
        collector.add(drawn)
        if collector.is_complete:
            break
    duration_s = time.perf_counter() - start_s
    return Generation(prompt, collector.finish(), steps * samples / max(duration_s, 1e-9))


def encode_prompt(prompt: str, vocabulary: Vocabulary, context: int) -> list[int]:
    """Return the tokens of a prompt, after the token that begins a document.

    Raises ConfigError if it has no token, more than `context`, or unknown characters.
    """
    try:
        tokens = encode_text(prompt, vocabulary, "--prompt")
    except DataError as error:
        raise ConfigError(error.message, error.hint) from None
    if vocabulary.separator is not None:
        tokens = [vocabulary.separator, *tokens]
    if not tokens:
        raise ConfigError(
            "--prompt must not be empty, because the model does not have a token that begins a text",
            "name the first words, as in --prompt 'In the'",
        )
    if len(tokens) > context:
        raise ConfigError(
            f"--prompt has {len(tokens)} tokens, and the model reads at most {context}", "use a shorter prompt"
        )
    return tokens


def choose_source(loaded_model: LoadedModel, uses_cache: bool) -> LanguageModule | ComputeLogits:
    """Return the network with its memory, or the function that reads the whole text each time.

    Exports, other networks and reduced precision do not have such a memory.
    """
    set_deferred_logits(loaded_model.model, False)
    module = find_language_module(loaded_model.model)
    if module is None or not uses_cache or loaded_model.autocast is not None:
        return loaded_model.compute_outputs
    return module


class _Collector:
    """Joins the tokens of each sample to its text, and hands new text on as soon as its characters are whole."""

    def __init__(self, vocabulary: Vocabulary, samples: int, on_text: OnText) -> None:
        self._pieces, self._separator, self._on_text = vocabulary.list_pieces(), vocabulary.separator, on_text
        self._decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(samples)]
        self._texts, self._counts, self._ended = [""] * samples, [0] * samples, [False] * samples

    @property
    def is_complete(self) -> bool:
        return all(self._ended)

    def add(self, tokens: Sequence[int]) -> None:
        for sample, token in enumerate(tokens):
            self._ended[sample] |= token == self._separator
            if not self._ended[sample]:
                self._counts[sample] += 1
                self._append(sample, self._decoders[sample].decode(self._pieces[token]))

    def finish(self) -> tuple[GeneratedText, ...]:
        for sample, decoder in enumerate(self._decoders):
            self._append(sample, decoder.decode(b"", final=True))
        return tuple(map(GeneratedText, self._texts, self._counts, self._ended))

    def _append(self, sample: int, text: str) -> None:
        if text:
            self._texts[sample] += text
            self._on_text(sample, text)
