"""Reliability and the temperature."""

from __future__ import annotations

import pytest
import torch

from dnntrain.explain.calibration import calibrate, compute_nll, fit_temperature, measure_reliability


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
