"""task=language_model: its loss and metrics by hand, from logits of every form; its summary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dnntrain.choices.task.language_model import LanguageModel, compute_perplexity
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    Batch,
    DeferredLogits,
    InputSpec,
    Predictions,
    TargetKind,
    TargetSpec,
    Vocabulary,
)

VOCABULARY = Vocabulary("char", "abé", separates=True)
INPUTS = InputSpec((4,), (), (), vocabulary=VOCABULARY)
TASK = LanguageModel()
SPEC = TASK.make_spec(INPUTS, TargetSpec((), TargetKind.TOKENS))


def make_batch() -> Batch:
    targets = torch.tensor([[0, 1, 2, 3], [1, 1, 0, 2]])
    return Batch(torch.zeros(2, 4, dtype=torch.int64), targets, np.arange(2), np.arange(2))


def make_logits() -> DeferredLogits:
    torch.manual_seed(0)
    return DeferredLogits(torch.randn(2, 4, 6), torch.randn(4, 6), 0.0)


def test_the_output_has_logits_of_each_token() -> None:
    assert SPEC.output.shape == (4, 4)
    assert SPEC.output.size == VOCABULARY.size == 4
    assert TASK.loss_weight(3, SPEC) == 12
    with pytest.raises(ConfigError, match="task=language_model needs the next token"):
        TASK.build(InputSpec((1, 8, 8), (0.5,), (0.5,)), TargetSpec(("a", "b")))


def test_deferred_logits_and_logits_and_losses_have_one_value() -> None:
    batch, logits = make_batch(), make_logits()
    full = logits.compute()
    expected = torch.nn.functional.cross_entropy(full.flatten(0, 1), batch.targets.flatten(), reduction="none")
    with torch.no_grad():
        for outputs in (logits, full, TASK.reduce_outputs(logits, batch)):
            assert float(TASK.loss_sum(outputs, batch)) == pytest.approx(float(expected.sum()), rel=1e-6)
            torch.testing.assert_close(TASK.compute_losses(outputs, batch), expected.view(2, 4).sum(1))


def test_metrics_are_means_over_tokens_and_over_bytes() -> None:
    batch, full = make_batch(), make_logits().compute()
    losses = TASK.reduce_outputs(full, batch).double()
    bits, perplexity = TASK.list_metrics(SPEC)
    assert perplexity.value(perplexity.sums(full, batch).tolist()) == pytest.approx(float(losses.mean().exp()))
    # The separator, token 3, is left out; é has two bytes.
    counted = losses.sum() - losses[0, 3]
    assert bits.value(bits.sums(full, batch).tolist()) == pytest.approx(float(counted) / math.log(2) / 9)
    assert math.isnan(bits.value([0.0, 0.0]))
    assert compute_perplexity([1e6, 1.0]) == math.inf
    assert [info.name for info in TASK.list_infos()] == ["loss", "bits_per_byte", "perplexity"]


def test_the_summary_names_the_most_surprising_tokens() -> None:
    batch = make_batch()
    losses = torch.tensor([[1.0, 2.0, 9.0, 0.1], [0.0, 0.5, 0.2, 4.0]])
    summary = TASK.summarize(
        Predictions(losses, batch.targets, torch.arange(2)), SPEC, 2, lambda number: {"name": f"text {number}"}
    )
    assert summary["loss"] == pytest.approx(16.8 / 8)
    assert summary["tokens"] == 8
    assert summary["surprising_tokens"] == [
        {"name": "text 0", "before": "ab", "token": "é", "bits": round(9 / math.log(2), 3)},
        {"name": "text 1", "before": "bba", "token": "é", "bits": round(4 / math.log(2), 3)},
    ]


def test_predictions_are_the_most_probable_next_tokens() -> None:
    logits = torch.zeros(1, 4, 4)
    logits[0, -1] = torch.tensor([0.0, 3.0, 1.0, -1.0])
    (row,) = TASK.format_predictions(logits, SPEC, 2)
    assert [token for token, _ in row["next"]] == ["b", "é"]
    assert TASK.agrees(logits, logits + 1).tolist() == [True]
