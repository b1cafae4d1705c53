"""task=multilabel: its loss, its metrics beside scikit-learn's, its weights and its summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

import dnntrain
from dnntrain.checkpoint.model_spec import decode_model_spec, encode_extra_values
from dnntrain.choices.task._label_metrics import find_threshold, list_precision_curves
from dnntrain.choices.task.multilabel import Multilabel
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, InputSpec, Predictions, TargetKind, TargetSpec
from dnntrain.report.label_curves import render_label_curves

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


def test_the_threshold_is_chosen_on_validation_and_kept_with_the_model() -> None:
    outputs, targets = draw()
    task = Multilabel(threshold="calibrated")
    predictions = Predictions(outputs, targets, torch.arange(len(targets)))
    spec = task.calibrate(predictions, SPEC)
    assert spec.output.threshold is not None
    best = task.summarize(predictions, SPEC, 0, lambda number: {})
    calibrated = task.summarize(predictions, spec, 0, lambda number: {})
    assert calibrated["micro_f1"] == pytest.approx(best["calibrated_micro_f1"])
    assert (best["threshold"], calibrated["threshold"]) == (0.5, spec.output.threshold)
    (row,) = task.format_predictions(torch.tensor([[9.0, -9.0, 9.0]]), spec, 1)
    assert row["labels"] == "bag;shoe"
    extra = encode_extra_values(spec)
    decoded = decode_model_spec(
        input_shape=[1, 2, 2],
        mean=[0.5],
        std=[0.5],
        names=list(NAMES),
        targets="labels",
        output_name="logits",
        output_shape=[3],
        extra=extra,
    )
    assert decoded == spec
    with pytest.raises(ValueError, match="threshold must be a number between 0 and 1"):
        decode_model_spec(
            input_shape=[1, 2, 2],
            mean=[0.5],
            std=[0.5],
            names=list(NAMES),
            targets="labels",
            output_name="logits",
            output_shape=[3],
            extra={"threshold": 2},
        )


def test_curves_of_labels_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve

    outputs, targets = draw()
    curves = list_precision_curves(outputs.double().numpy(), targets.numpy() > 0.5, max_points=999)
    for label, curve in enumerate(curves):
        precision, recall, _ = precision_recall_curve(targets[:, label].numpy(), outputs[:, label].numpy())
        expected = [[r, p] for r, p in zip(recall[::-1][1:], precision[::-1][1:], strict=True)]
        assert np.array(curve) == pytest.approx(np.array(expected)[: len(curve)], abs=1e-4)
    assert "recall" in render_label_curves({"label_names": list(NAMES), "label_curves": curves})
    assert render_label_curves({"label_names": 3, "label_curves": [1]}) == ""


_TWO_LABELS = """
import numpy as np

def make(train=True):
    random = np.random.default_rng(int(train))
    labels = (random.random((120 if train else 40, 2)) < 0.3).astype(np.int64)
    images = random.integers(0, 120, (len(labels), 8, 8), dtype=np.uint8)
    images[:, :4] += (labels[:, :1, None] * 60).astype(np.uint8)
    images[:, 4:] += (labels[:, 1:, None] * 60).astype(np.uint8)
    return images, labels
"""


@pytest.mark.slow
def test_a_run_carries_its_threshold_to_predict_eval_and_exports(tmp_path: Path) -> None:
    file, run = tmp_path / "bars.py", tmp_path / "run"
    file.write_text(_TWO_LABELS)
    data = ("data=custom", f"data.file={file}")
    words = (*data, "task=multilabel", "task.threshold=calibrated", "train.duration=3ep", "data.val_fraction=0.3")
    result = dnntrain.train(*words, f"run_dir={run}", display="quiet")
    threshold = result["threshold"]
    assert 0 < threshold < 1
    assert json.loads((run / "config.json").read_text())["dnntrain"]["threshold"] == threshold
    assert json.loads((run / "evaluation.json").read_text())["threshold"] == threshold
    assert dnntrain.evaluate(run, trust=True)["micro_f1"] == pytest.approx(result["test_micro_f1"])
    assert main(["export", str(run), "--trust", "--format", "safetensors", "--path", str(tmp_path / "export")]) == 0
    assert json.loads((tmp_path / "export" / "manifest.json").read_text())["threshold"] == threshold


def test_two_outputs_agree_if_the_threshold_of_the_model_gives_the_same_labels() -> None:
    """An export that crosses the threshold at 0.2 predicts other labels, though both are below 0.5."""
    logits = torch.tensor([[-1.3, -3.0, 2.0], [-1.3, -3.0, 2.0]])
    other = torch.tensor([[-1.5, -3.0, 2.0], [-0.2, -3.0, 2.0]])
    assert Multilabel(threshold=0.2).agrees(other, logits, SPEC).tolist() == [False, True]
    calibrated = replace(SPEC, output=replace(SPEC.output, threshold=0.2))
    assert Multilabel(threshold="calibrated").agrees(other, logits, calibrated).tolist() == [False, True]
    assert TASK.agrees(other, logits, SPEC).tolist() == [True, True]
