"""task=classification: its loss, its metrics, and what is made of its outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from dnntrain.choices.task._class_metrics import count_confusion
from dnntrain.choices.task.classification import Classification
from dnntrain.errors import ConfigError
from dnntrain.protocols import LOSS, Batch, InputSpec, MetricInfo, ModelSpec, Predictions, TargetSpec, find_metric

TASK = Classification()
NAMES = ("cat", "dog", "eel")
INPUTS = InputSpec((1, 2, 2), (0.5,), (0.5,))
SPEC = ModelSpec(INPUTS, TargetSpec(NAMES), TASK.build(INPUTS, TargetSpec(NAMES)))


def make_batch(targets: torch.Tensor) -> Batch:
    index = np.arange(len(targets))
    return Batch(torch.zeros(len(targets), 1, 2, 2), targets, index, index)


def draw_outputs(examples: int) -> torch.Tensor:
    return torch.randn(examples, 3, generator=torch.Generator().manual_seed(0))


def test_the_output_has_one_logit_a_class() -> None:
    assert (SPEC.output.shape, SPEC.output.size, SPEC.output.names, SPEC.output.name) == ((3,), 3, NAMES, "logits")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_the_fused_sum_is_the_sum_of_the_losses(smoothing: float, soft: bool) -> None:
    outputs = draw_outputs(7)
    targets = draw_outputs(7).softmax(1) if soft else torch.arange(7) % 3
    losses = TASK.compute_losses(outputs, make_batch(targets), smoothing)
    assert losses.shape == (7,)
    torch.testing.assert_close(TASK.loss_sum(outputs, make_batch(targets), smoothing), losses.sum())


def test_the_sum_has_the_bits_of_one_cross_entropy() -> None:
    outputs, targets = draw_outputs(64).bfloat16(), torch.arange(64) % 3
    expected = cross_entropy(outputs.float(), targets, reduction="sum", label_smoothing=0.1)
    assert torch.equal(TASK.loss_sum(outputs, make_batch(targets), 0.1), expected)


def test_the_mean_is_over_examples() -> None:
    assert TASK.loss_weight(12, SPEC) == 12


def test_accuracy_is_a_share_of_sums() -> None:
    (accuracy,) = TASK.list_metrics()
    outputs = torch.eye(3)
    first = accuracy.sums(outputs, make_batch(torch.tensor([0, 1, 1])))
    second = accuracy.sums(outputs[:1], make_batch(torch.tensor([0])))
    assert (first + second).tolist() == [3, 4]
    assert accuracy.value((3.0, 4.0)) == 0.75
    assert math.isnan(accuracy.value((0.0, 0.0)))


def test_metrics_state_their_direction_and_unit() -> None:
    assert TASK.list_infos() == (LOSS, MetricInfo("accuracy", higher_is_better=True, unit="%"))
    loss, accuracy = TASK.list_infos()
    assert accuracy.is_better(0.9, 0.8)
    assert not accuracy.is_better(0.8, 0.8)
    assert loss.is_better(0.1, 0.2)
    assert loss.is_better(0.1, math.nan)
    assert not loss.is_better(math.nan, 0.1)


def test_a_metric_that_the_task_has_not_is_refused_with_the_nearest() -> None:
    assert find_metric("loss", TASK.list_infos(), "eval.metric") is LOSS
    with pytest.raises(ConfigError, match=r"eval\.metric=acuracy.*did you mean 'accuracy'"):
        find_metric("acuracy", TASK.list_infos(), "eval.metric")


def test_confusion_counts_true_classes_by_row() -> None:
    assert count_confusion(torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2]), 3).tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [0, 0, 1],
    ]


def test_the_summary_holds_metrics_confusion_and_the_surest_mistakes() -> None:
    outputs = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [0.0, 9.0, 0.0]])
    predictions = Predictions(TASK.predict(outputs), torch.tensor([0, 0, 0, 1]), torch.tensor([10, 11, 12, 13]))
    summary = TASK.summarize(predictions, SPEC, 1, lambda number: {"name": f"example {number}", "image": "…"})
    assert list(summary)[:3] == ["examples", "loss", "accuracy"]
    assert list(summary)[-4:] == ["by_class", "class_names", "confusion", "wrong"]
    assert (summary["examples"], summary["accuracy"], summary["class_names"]) == (4, 0.5, list(NAMES))
    assert summary["loss"] == pytest.approx(float(cross_entropy(outputs, predictions.targets)))
    (worst,) = summary["wrong"]
    assert (worst["name"], worst["label"], worst["predicted"]) == ("example 12", 0, 2)


def test_predictions_are_the_most_probable_classes() -> None:
    (row,) = TASK.format_predictions(torch.tensor([[0.0, 2.0, 1.0]]), SPEC, top=2)
    assert row["class"] == "dog"
    assert [name for name, _ in row["top"]] == ["dog", "eel"]
    assert row["probability"] == row["top"][0][1] == pytest.approx(0.665241, abs=1e-6)


def test_outputs_agree_if_they_give_the_same_class() -> None:
    expected = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert TASK.agrees(torch.tensor([[0.4, 0.5], [0.5, 0.4]]), expected).tolist() == [True, False]
