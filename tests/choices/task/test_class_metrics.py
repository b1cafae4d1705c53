"""Metrics, losses and weights of task=classification, beside scikit-learn's and formulas by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from dnntrain.choices.task._class_losses import compute_class_losses
from dnntrain.choices.task._class_weights import compute_class_weights
from dnntrain.choices.task.classification import Classification
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, InputSpec, Predictions, TargetSpec

NAMES = tuple("abcd")
ALL = ("top5", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "ece", "auroc")
TASK = Classification(metrics=ALL)
INPUTS = InputSpec((1, 2, 2), (0.5,), (0.5,))
SPEC = TASK.make_spec(INPUTS, TargetSpec(NAMES))


def draw(examples: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (examples,), generator=generator)  # class d does not occur
    outputs = torch.randn(examples, 4, generator=generator) + 1.5 * torch.eye(4)[targets]
    return outputs.round(decimals=1), targets


def make_batch(targets: torch.Tensor) -> Batch:
    index = np.arange(len(targets))
    return Batch(torch.zeros(len(targets), 1, 2, 2), targets, index, index)


def measure(task: Classification = TASK) -> dict[str, float]:
    outputs, targets = draw()
    values = {}
    for metric in task.list_metrics(SPEC):
        parts = [metric.sums(outputs[rows], make_batch(targets[rows])) for rows in (slice(0, 7), slice(7, 60))]
        values[metric.name] = metric.value((parts[0].double() + parts[1].double()).tolist())
    for metric in task.list_row_metrics(SPEC):
        values[metric.name] = metric.value(metric.rows(outputs, make_batch(targets)).numpy())
    return values


def test_metrics_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    outputs, targets = draw()
    predicted, truth, probabilities = outputs.argmax(1).numpy(), targets.numpy(), outputs.softmax(1).numpy()
    values = measure()
    with np.errstate(all="ignore"):
        assert values["balanced_accuracy"] == pytest.approx(
            metrics.recall_score(truth, predicted, labels=[0, 1, 2], average="macro")
        )
        for name, score in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        ):
            assert values[f"macro_{name}"] == pytest.approx(
                score(truth, predicted, average="macro", zero_division=0)
            ), name
    areas = [metrics.roc_auc_score(truth == label, probabilities[:, label]) for label in range(3)]
    assert values["auroc"] == pytest.approx(float(np.mean(areas)))
    assert values["top5"] == 1.0


def test_the_calibration_error_is_the_weighted_gap_of_its_bins() -> None:
    outputs, targets = draw()
    confidence, predicted = outputs.softmax(1).double().max(1)
    correct = (predicted == targets).double()
    bins = (confidence * 15).long().clamp(0, 14)
    gaps = [abs(float((confidence - correct)[bins == number].sum())) for number in range(15)]
    assert measure()["ece"] == pytest.approx(sum(gaps) / 60)


def test_the_summary_has_every_metric_and_the_figures_of_each_class() -> None:
    outputs, targets = draw()
    predictions = Predictions(TASK.predict(outputs), targets, torch.arange(60))
    summary = TASK.summarize(predictions, SPEC, 0, lambda number: {})
    for name, value in measure().items():
        assert summary[name] == pytest.approx(value, abs=1e-6), name
    assert len(summary["by_class"]["f1"]) == 4


def test_metrics_are_added_by_name() -> None:
    assert [info.name for info in Classification().list_infos()] == ["loss", "accuracy"]
    assert [info.name for info in Classification(metric="macro_f1").list_infos()] == ["loss", "accuracy", "macro_f1"]
    assert [info.name for info in Classification(metrics=("auroc",)).list_infos()] == ["loss", "accuracy", "auroc"]


def test_losses_are_their_formulas() -> None:
    outputs, targets = draw(5)
    probabilities = outputs.softmax(1)[torch.arange(5), targets]
    focal = compute_class_losses("focal", outputs, targets, 0.0, None, 2.0)
    torch.testing.assert_close(focal, -((1 - probabilities) ** 2) * probabilities.log())
    plain = compute_class_losses("focal", outputs, targets, 0.1, None, 0.0)
    torch.testing.assert_close(plain, cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1))
    bce = compute_class_losses("bce", outputs, targets, 0.0, None, 2.0)
    signs = 1 - 2 * torch.eye(4)[targets]
    torch.testing.assert_close(bce, torch.nn.functional.softplus(signs * outputs).sum(1))


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "bce"])
def test_weights_multiply_the_loss_of_their_class(loss: str) -> None:
    outputs, targets = draw(9)
    weights = [1.0, 2.0, 3.0, 4.0]
    weighted = compute_class_losses(loss, outputs, targets, 0.0, weights, 2.0)
    expected = compute_class_losses(loss, outputs, targets, 0.0, None, 2.0) * torch.tensor(weights)[targets]
    torch.testing.assert_close(weighted, expected)


def test_balanced_weights_give_each_class_the_same_sum_and_a_mean_of_1() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    weights = np.array(compute_class_weights("task.class_weights", "balanced", ("a", "b", "c"), labels))
    absent = compute_class_weights("task.class_weights", "balanced", ("a", "b", "c", "absent"), labels)
    assert absent == (*weights, 0.0)  # label smoothing would multiply any other weight
    assert weights[labels].mean() == pytest.approx(1)
    assert (weights * np.bincount(labels)).tolist() == pytest.approx([100 / 3] * 3)


def test_the_fitted_task_trains_with_weights_and_the_task_evaluates_without() -> None:
    task = Classification(class_weights="balanced")
    outputs, targets = draw(6)
    fitted = task.fit(SPEC, np.array([0, 0, 0, 1, 2, 3]))
    assert float(task.loss_sum(outputs, make_batch(targets))) == pytest.approx(
        float(cross_entropy(outputs, targets, reduction="sum"))
    )
    weights = torch.tensor([6 / (4 * 3), 6 / 4, 6 / 4, 6 / 4])
    expected = cross_entropy(outputs, targets, weight=weights, reduction="sum")
    torch.testing.assert_close(fitted.loss_sum(outputs, make_batch(targets)), expected)


def test_weights_from_a_file_name_each_class(tmp_path: Path) -> None:
    file = tmp_path / "weights.csv"
    file.write_text("class,weight\nb,2\na,0.5\n")
    assert compute_class_weights("task.class_weights", str(file), ("a", "b"), np.array([0])) == (0.5, 2.0)
    with pytest.raises(ConfigError, match="no weight of c"):
        compute_class_weights("task.class_weights", str(file), ("a", "b", "c"), np.array([0]))
    with pytest.raises(ConfigError, match="do not have a class 'b'"):
        compute_class_weights("task.class_weights", str(file), ("a",), np.array([0]))


def test_options_without_effect_and_unknown_files_are_rejected() -> None:
    with pytest.raises(ValueError, match="focal_gamma=1 has no effect with loss=cross_entropy"):
        Classification(focal_gamma=1.0)
    with pytest.raises(ValueError, match=r"task\.class_weights=equal"):
        Classification(class_weights="equal")
    with pytest.raises(ConfigError, match=r"task\.class_weights=none\.csv: none\.csv does not exist"):
        Classification(class_weights="none.csv").check_files()
