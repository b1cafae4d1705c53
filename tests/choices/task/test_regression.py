"""task=regression: its losses by hand, its metrics as sums in the units of the target, and its summary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dnntrain.choices.task.regression import Regression, sum_errors
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.combinations import find_refusals
from dnntrain.protocols import Batch, InputSpec, ModelSpec, Predictions, TargetKind, TargetSpec
from dnntrain.utils.hardware import Hardware

INPUTS = InputSpec((1, 2, 2), (0.5,), (0.5,))
TARGETS = TargetSpec(("price", "weight"), TargetKind.NUMBERS, mean=(100.0, -3.0), std=(20.0, 0.5))
SPEC = Regression().make_spec(INPUTS, TARGETS)


def make_batch(targets: list[list[float]]) -> Batch:
    index = np.arange(len(targets))
    return Batch(torch.zeros(len(targets), 1, 2, 2), torch.tensor(targets), index, index)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Regression(), [(0.25 + 4.0) / 2, 0.0]),
        (Regression(loss="mae"), [(0.5 + 2.0) / 2, 0.0]),
        (Regression(loss="huber", delta=1.5), [(0.125 + 1.5 * (2.0 - 0.75)) / 2, 0.0]),
        (Regression(loss="quantile", quantile=0.9), [(0.9 * 0.5 + 0.1 * 2.0) / 2, 0.0]),
    ],
)
def test_the_losses_are_their_formulas(task: Regression, expected: list[float]) -> None:
    batch = make_batch([[1.0, 0.0], [3.0, 3.0]])
    losses = task.compute_losses(torch.tensor([[0.5, 2.0], [3.0, 3.0]]), batch)
    assert losses.tolist() == pytest.approx(expected)
    assert float(task.loss_sum(torch.tensor([[0.5, 2.0], [3.0, 3.0]]), batch)) == pytest.approx(sum(expected))


def test_metrics_have_the_units_of_the_target_and_are_means_over_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    targets, outputs = (torch.randn(50, 2, generator=generator) for _ in range(2))
    parts = [sum_errors(outputs[rows], make_batch(targets[rows].tolist())) for rows in (slice(0, 13), slice(13, 50))]
    values = {metric.name: metric.value((parts[0] + parts[1]).tolist()) for metric in Regression().list_metrics(SPEC)}
    scale, shift = torch.tensor(TARGETS.std), torch.tensor(TARGETS.mean)
    truth, estimate = targets * scale + shift, outputs * scale + shift
    errors = truth - estimate
    assert values["rmse"] == pytest.approx(float(errors.square().mean(0).sqrt().mean()), rel=1e-6)
    assert values["mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-6)
    r2 = 1 - errors.square().sum(0) / (truth - truth.mean(0)).square().sum(0)
    assert values["r2"] == pytest.approx(float(r2.mean()), rel=1e-5)


def test_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import mean_absolute_error, r2_score

    generator = torch.Generator().manual_seed(1)
    targets, outputs = (torch.randn(31, 2, generator=generator) for _ in range(2))
    sums = sum_errors(outputs, make_batch(targets.tolist())).tolist()
    unscaled = {
        metric.name: metric.value(sums)
        for metric in Regression().list_metrics(ModelSpec(INPUTS, _unscaled(), SPEC.output))
    }
    assert unscaled["r2"] == pytest.approx(r2_score(targets, outputs), rel=1e-6)
    assert unscaled["mae"] == pytest.approx(mean_absolute_error(targets, outputs), rel=1e-6)


def _unscaled() -> TargetSpec:
    return TargetSpec(TARGETS.names, TargetKind.NUMBERS, (0.0, 0.0), (1.0, 1.0))


def test_no_examples_and_equal_targets_have_no_value() -> None:
    rmse, mae, r2 = Regression().list_metrics(SPEC)
    assert all(math.isnan(metric.value([0.0] * metric.width)) for metric in (rmse, mae, r2))
    sums = sum_errors(torch.zeros(3, 2), make_batch([[1.0, 2.0]] * 3)).tolist()
    assert math.isnan(r2.value(sums))


def test_the_default_metric_is_the_first_and_has_a_direction() -> None:
    names = [info.name for info in Regression().list_infos()]
    assert names == ["loss", "rmse", "mae", "r2"]
    assert [info.higher_is_better for info in Regression().list_infos()] == [False, False, False, True]


def test_the_summary_has_estimates_in_the_units_of_the_target_and_the_largest_error_first() -> None:
    values, targets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.zeros(3, 2)
    summary = Regression().summarize(
        Predictions(values, targets, torch.arange(3)), SPEC, 2, lambda number: {"name": f"row {number}"}
    )
    assert summary["points"][0] == [[100.0, 100.0], [100.0, 120.0], [100.0, 100.0]]
    assert [sample["name"] for sample in summary["worst"]] == ["row 2", "row 1"]
    assert summary["worst"][0]["estimates"] == [100.0, -2.0]
    assert summary["rmse"] == pytest.approx((20 * math.sqrt(1 / 3) + 0.5 * math.sqrt(4 / 3)) / 2)


def test_predictions_are_named_and_in_the_units_of_the_target() -> None:
    assert list(Regression().format_predictions(torch.tensor([[1.0, -2.0]]), SPEC, 1)) == [
        {"price": 120.0, "weight": -4.0}
    ]


def test_options_without_effect_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"quantile=0\.9 has no effect with loss=mse"):
        Regression(quantile=0.9)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["reg=[label_smoothing]"], "reg.label_smoothing needs targets that can be smoothed"),
        (["+augment=[cutmix]"], "augment.cutmix needs images as inputs, which data=diabetes does not have"),
        (["augment=[crop]"], "augment.crop needs images as inputs"),
        (["distill=kd", "distill.teacher=runs/x"], "distill=kd needs logits over classes"),
    ],
)
def test_methods_that_need_classes_or_images_are_rejected(words: list[str], reason: str) -> None:
    config = decode_config(compose(["task=regression", "data=diabetes", "model=mlp", *words]))
    reasons = [refusal.reason for refusal in find_refusals(config, Hardware(), 1)]
    assert any(text.startswith(reason) for text in reasons), reasons


def test_default_methods_that_the_task_does_not_support_are_left_out() -> None:
    resolved = compose(["task=regression", "data=diabetes", "model=mlp", "+reg=[l1]"])
    assert (resolved["choices"]["augment"], resolved["choices"]["reg"]) == ([], ["l1"])
    assert compose(["task=regression"])["choices"]["augment"] == ["crop", "flip"]
    assert compose([])["choices"]["reg"] == ["label_smoothing"]


def test_a_metric_of_another_task_is_rejected_with_the_known_ones() -> None:
    config = decode_config(compose(["task=regression", "data=diabetes", "model=mlp", "eval.metric=accuracy"]))
    (refusal,) = find_refusals(config, Hardware(), 1)
    assert "eval.metric=accuracy: the task does not have this metric" in refusal.reason


def test_classes_are_rejected() -> None:
    with pytest.raises(ConfigError, match="task=regression needs one or several numbers"):
        Regression().build(INPUTS, TargetSpec(("cat", "dog")))
