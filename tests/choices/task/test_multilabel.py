"""task=multilabel: its loss, its metrics beside scikit-learn's, its weights and its summary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from dnntrain.choices.task._label_metrics import find_threshold
from dnntrain.choices.task.multilabel import Multilabel
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, InputSpec, Predictions, TargetKind, TargetSpec

TASK = Multilabel()
NAMES = ("bag", "coat", "shoe")
INPUTS = InputSpec((1, 2, 2), (0.5,), (0.5,))
SPEC = TASK.make_spec(INPUTS, TargetSpec(NAMES, TargetKind.LABELS))


def draw(examples: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(examples, 3, generator=generator) < 0.4).float()
    outputs = torch.randn(examples, 3, generator=generator) + targets
    return outputs.round(decimals=1), targets


def make_batch(targets: torch.Tensor) -> Batch:
    index = np.arange(len(targets))
    return Batch(torch.zeros(len(targets), 1, 2, 2), targets, index, index)


def test_the_loss_is_the_sum_of_binary_cross_entropies() -> None:
    outputs, targets = draw(4)
    expected = softplus((1 - 2 * targets) * outputs).sum(1)
    torch.testing.assert_close(TASK.compute_losses(outputs, make_batch(targets)), expected)


def test_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, f1_score

    outputs, targets = draw()
    predicted = (outputs.sigmoid() >= 0.5).numpy()
    values = {
        metric.name: metric.value(metric.sums(outputs, make_batch(targets)).tolist())
        for metric in TASK.list_metrics(SPEC)
    }
    (mean_precision,) = TASK.list_row_metrics(SPEC)
    values["map"] = mean_precision.value(mean_precision.rows(outputs, make_batch(targets)).numpy())
    assert values["macro_f1"] == pytest.approx(f1_score(targets.numpy(), predicted, average="macro"))
    assert values["micro_f1"] == pytest.approx(f1_score(targets.numpy(), predicted, average="micro"))
    assert values["map"] == pytest.approx(average_precision_score(targets.numpy(), outputs.numpy()))


def test_balanced_weights_are_absent_over_present() -> None:
    outputs, targets = draw(5)
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=np.float32)
    fitted = Multilabel(label_weights="balanced").fit(SPEC, labels)
    weights = torch.tensor([3.0, 3.0, 1 / 3])
    expected = (targets * weights * softplus(-outputs) + (1 - targets) * softplus(outputs)).sum(1)
    torch.testing.assert_close(fitted.compute_losses(outputs, make_batch(targets)), expected)


def test_the_calibrated_threshold_has_the_highest_f1() -> None:
    scores = np.array([[0.9], [0.3], [0.25], [0.1]])
    threshold, f1 = find_threshold(scores, np.array([[True], [True], [False], [False]]))
    assert (threshold, f1) == (0.3, 1.0)


def test_the_summary_has_figures_of_each_label() -> None:
    outputs, targets = draw()
    summary = TASK.summarize(
        Predictions(outputs, targets, torch.arange(40)), SPEC, 2, lambda number: {"name": str(number)}
    )
    assert {"loss", "map", "macro_f1", "micro_f1", "calibrated_threshold"} <= set(summary)
    assert len(summary["by_label"]["recall"]) == 3
    assert len(summary["worst_labels"]) == 2
    assert summary["calibrated_micro_f1"] >= summary["micro_f1"]


def test_predictions_list_the_labels_from_the_threshold_on() -> None:
    (row,) = TASK.format_predictions(torch.tensor([[2.0, -2.0, 0.1]]), SPEC, 1)
    assert row["labels"] == "bag;shoe"
    assert row["coat"] == pytest.approx(0.119203)


def test_classes_are_rejected() -> None:
    with pytest.raises(ConfigError, match="task=multilabel needs any number of labels"):
        TASK.build(INPUTS, TargetSpec(("cat", "dog")))
