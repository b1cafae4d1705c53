"""Language modeling: the next token at each position of a text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from dnntrain.config.fields import Literal, NonNegativeInt
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    Batch,
    DeferredLogits,
    DescribeExample,
    InputSpec,
    Metric,
    ModelSpec,
    OutputKind,
    OutputSpec,
    Predictions,
    TargetKind,
    TargetSpec,
    Task,
    TaskFeature,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    #: Logits, logits that are not computed yet, or the losses of tokens.
    AnyLogits: TypeAlias = Tensor | DeferredLogits

#: Tokens before a surprising one that the report shows.
_SHOWN_TOKENS = 48

#: Texts that the report shows: their number, their length, and the temperature of the draws.
_SAMPLES, _SAMPLE_TOKENS, _SAMPLE_TEMPERATURE = 3, 200, 0.8


@dataclass(frozen=True)
class LanguageModel(Task):
    """The cross-entropy of each next token; the mean over tokens is the loss.

    With L the sum of the cross-entropies in nats:

        perplexity     exp(L / tokens)
        bits_per_byte  L / ln 2 / bytes of the tokens, which does not depend on the tokenizer

    Tokens that separate documents have no bytes, and are left out of bits_per_byte.
    """

    metric: Literal["bits_per_byte", "perplexity", "loss"] = "bits_per_byte"  # default metric; eval.metric follows it
    sample_tokens: NonNegativeInt = 100  # tokens of a text that the model writes at each evaluation; 0: none

    features: ClassVar[frozenset[TaskFeature]] = frozenset({TaskFeature.SOFTMAX_LOGITS})
    agreement: ClassVar[str] = "same next token for 99 % of the positions"
    measures_targets: ClassVar[bool] = False
    target_kind: ClassVar[TargetKind | None] = TargetKind.TOKENS
    output_kind: ClassVar[OutputKind] = OutputKind.TOKENS

    def build(self, inputs: InputSpec, targets: TargetSpec) -> OutputSpec:
        if targets.kind is not TargetKind.TOKENS or inputs.vocabulary is None:
            raise ConfigError(
                f"task=language_model needs {TargetKind.TOKENS.value}; the data have {targets.kind.value}",
                "choose a text, such as data=python_library, or the task for these data",
            )
        return OutputSpec((), (*inputs.shape, inputs.vocabulary.size), "logits", axis=1)

    def list_metrics(self, spec: ModelSpec | None = None) -> tuple[Metric, ...]:
        pieces = [] if spec is None or spec.inputs.vocabulary is None else spec.inputs.vocabulary.list_pieces()
        sizes = [len(piece) for piece in pieces]

        def sum_bytes(outputs: AnyLogits, batch: Batch) -> Tensor:
            import torch

            losses = get_token_losses(outputs, batch.targets).double()
            counts = torch.tensor(sizes, dtype=torch.float64, device=losses.device)[batch.targets]
            return torch.stack([(losses * (counts > 0)).sum(), counts.sum()])

        return (
            Metric("bits_per_byte", sums=sum_bytes, value=compute_bits, width=2),
            Metric("perplexity", sums=sum_tokens, value=compute_perplexity, width=2),
        )

    def compute_losses(self, outputs: AnyLogits, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return get_token_losses(outputs, batch.targets).sum(1)

    def loss_sum(self, outputs: AnyLogits, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        if isinstance(outputs, DeferredLogits):
            from dnntrain.nn.chunked_loss import compute_chunked_loss

            return compute_chunked_loss(outputs, batch.targets)
        return get_token_losses(outputs, batch.targets).sum()

    def get_units(self, spec: ModelSpec) -> int:
        return spec.inputs.shape[0]

    def reduce_outputs(self, outputs: AnyLogits, batch: Batch) -> Tensor:
        """Return the cross-entropy of each token, float32 [n, length]."""
        return get_token_losses(outputs, batch.targets)

    def predict_batch(self, outputs: Tensor, batch: Batch) -> Tensor:
        return get_token_losses(outputs, batch.targets)

    def summarize(
        self, predictions: Predictions, spec: ModelSpec, max_samples: int, describe: DescribeExample
    ) -> dict[str, Any]:
        """Return loss and metrics, and the tokens with the largest losses after the text before them."""
        summary = super().summarize(predictions, spec, max_samples, describe)
        assert spec.inputs.vocabulary is not None
        pieces = spec.inputs.vocabulary.list_pieces()
        length = predictions.values.shape[1]
        worst = predictions.values.flatten().topk(min(max_samples, predictions.values.numel()))
        surprises = []
        for loss, place in zip(worst.values.tolist(), worst.indices.tolist(), strict=True):
            row, column = divmod(place, length)
            before = predictions.targets[row, max(0, column - _SHOWN_TOKENS) : column].tolist()
            surprises.append(
                {
                    **describe(int(predictions.index[row])),
                    "before": _show(pieces, before),
                    "token": _show(pieces, [int(predictions.targets[row, column])]),
                    "bits": round(loss / math.log(2), 3),
                }
            )
        return {**summary, "tokens": predictions.values.numel(), "surprising_tokens": surprises}

    def make_samples(self, model: nn.Module, spec: ModelSpec, device: str) -> dict[str, Any]:
        """Return {"samples": texts that the model generates from the beginning of a document}."""
        texts = _generate(model, spec, device, _SAMPLE_TOKENS, _SAMPLES)
        return {"samples": texts} if texts else {}

    def write_sample(self, model: nn.Module, spec: ModelSpec, device: str) -> str:
        return "".join(_generate(model, spec, device, self.sample_tokens, 1)) if self.sample_tokens else ""

    def format_predictions(self, outputs: Tensor, spec: ModelSpec, top: int) -> Iterator[dict[str, Any]]:
        """Yield the most probable tokens after each text."""
        assert spec.inputs.vocabulary is not None
        pieces = spec.inputs.vocabulary.list_pieces()
        best = outputs[:, -1].float().softmax(1).topk(min(top, len(pieces)))
        for probabilities, tokens in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = zip(tokens, probabilities, strict=True)
            yield {"next": [[_show(pieces, [token]), round(value, 6)] for token, value in pairs]}

    def agrees(self, outputs: Tensor, expected: Tensor, spec: ModelSpec | None = None) -> Tensor:
        """Return bool [n]: rounding turns some of the many positions with two equally probable tokens."""
        return (outputs.argmax(2) == expected.argmax(2)).float().mean(1) >= 0.99


def get_token_losses(outputs: AnyLogits, targets: Tensor) -> Tensor:
    """Return the cross-entropies float32 [n, length] of deferred logits, of logits, or of what they already are."""
    from torch.nn.functional import cross_entropy

    if isinstance(outputs, DeferredLogits):
        from dnntrain.nn.chunked_loss import compute_token_losses

        return compute_token_losses(outputs, targets)
    if outputs.ndim == 2:
        return outputs
    losses = cross_entropy(outputs.float().flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


def sum_tokens(outputs: AnyLogits, batch: Batch) -> Tensor:
    """Return [2]: the sum of the cross-entropies in nats, and the number of tokens."""
    import torch

    losses = get_token_losses(outputs, batch.targets).double()
    return torch.stack([losses.sum(), torch.full_like(losses.sum(), losses.numel())])


def compute_bits(sums: Sequence[float]) -> float:
    """Return bits per byte from nats and bytes; NaN without bytes."""
    return sums[0] / math.log(2) / sums[1] if sums[1] else math.nan


def compute_perplexity(sums: Sequence[float]) -> float:
    """Return exp(nats / tokens); NaN without tokens, infinity if it is too large for a number."""
    if not sums[1]:
        return math.nan
    mean = sums[0] / sums[1]
    return math.exp(mean) if mean < 700 else mean if math.isnan(mean) else math.inf


def _show(pieces: Sequence[bytes], tokens: Sequence[int]) -> str:
    return b"".join(pieces[token] for token in tokens).decode("utf-8", "replace")


def _generate(model: nn.Module, spec: ModelSpec, device: str, count: int, samples: int) -> list[str]:
    """Return texts of up to `count` tokens from the beginning of a document; none for other networks."""
    from dnntrain.nn.generation import Sampling, generate_tokens
    from dnntrain.nn.language_module import find_language_module

    module, vocabulary = find_language_module(model), spec.inputs.vocabulary
    if module is None or vocabulary is None:
        return []
    pieces, first = vocabulary.list_pieces(), vocabulary.separator
    prompt = [pieces.index(b"\n") if b"\n" in pieces else 0] if first is None else [first]
    was_training = model.training
    model.eval()
    sampling = Sampling(temperature=_SAMPLE_TEMPERATURE)
    steps = list(
        generate_tokens(module, prompt, count, sampling, context=module.context, samples=samples, device=device)
    )
    model.train(was_training)
    texts = [[step[number] for step in steps] for number in range(samples)]
    ends = [text.index(first) if first in text else len(text) for text in texts]
    return [_show(pieces, text[:end]) for text, end in zip(texts, ends, strict=True)]
