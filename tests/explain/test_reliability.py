"""Reliability and the temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnntrain.choices.task._class_metrics import sum_bins
from dnntrain.explain.calibration import calibrate, compute_nll, fit_temperature, measure_reliability
from dnntrain.explain.render_calibration import render_calibration
from dnntrain.protocols import Batch
from dnntrain.utils.calibration_error import compute_calibration_error


def test_the_error_is_the_distance_of_confidence_and_accuracy() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    reliability = measure_reliability(probabilities, torch.tensor([0, 1, 0, 1]))
    assert sum(reliability.counts) == 4
    assert reliability.ece == pytest.approx(0.5 * abs(0.9 - 0.5) + 0.5 * abs(0.6 - 1.0))


def test_the_temperature_of_logits_that_are_three_times_too_large_is_three() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 4, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, targets) == pytest.approx(3.0, rel=0.05)
    assert compute_nll(3 * logits, targets, 3.0) < compute_nll(3 * logits, targets)
    calibration = calibrate("test", 3 * logits, (3 * logits).softmax(1), targets, (3 * logits, targets))
    assert calibration.after is not None
    assert calibration.after.ece < 0.02 < calibration.before.ece


def test_probabilities_that_are_no_softmax_have_no_temperature() -> None:
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(200) % 4
    calibration = calibrate("test", logits, logits.sigmoid(), targets, (logits, targets))
    assert calibration.before == measure_reliability(logits.sigmoid(), targets)
    assert (calibration.temperature, calibration.after, calibration.nll) == (None, None, (None, None))
    assert "no temperature is fitted" in render_calibration(calibration)


def test_the_report_and_the_metric_of_the_task_are_one_figure() -> None:
    probabilities = (torch.randint(1, 16, (500, 1)) / 15).double().clamp_min(0.5)
    pairs = torch.cat([probabilities, 1 - probabilities], 1)
    targets = torch.arange(500) % 2
    batch = Batch(pairs, targets, np.arange(500), np.arange(500))
    value = compute_calibration_error(sum_bins(lambda outputs: outputs)(pairs, batch).tolist())
    assert measure_reliability(pairs, targets).ece == pytest.approx(value, abs=1e-12)
