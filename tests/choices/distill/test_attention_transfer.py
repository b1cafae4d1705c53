"""Attention transfer: the maps and their distance by hand, whatever the sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from students import assert_goes_on_bitwise, of_digits, taught_by

from dnntrain.choices.distill.attention_transfer import AttentionTransfer, attention_loss, attention_map
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, ModelOutputs
from dnntrain.utils.rng import Key

GENERATOR = np.random.default_rng(2)
STUDENT, TEACHER = GENERATOR.normal(size=(3, 4, 2, 2)), GENERATOR.normal(size=(3, 6, 2, 2))


def by_hand(student: np.ndarray, teacher: np.ndarray) -> float:
    q_s, q_t = (student**2).sum(0).ravel(), (teacher**2).sum(0).ravel()
    return float(np.linalg.norm(q_s / np.linalg.norm(q_s) - q_t / np.linalg.norm(q_t)))


def test_the_loss_is_the_distance_of_normalised_attention_maps() -> None:
    found = attention_loss(attention_map(torch.tensor(STUDENT)), attention_map(torch.tensor(TEACHER)))
    assert found.numpy() == pytest.approx([by_hand(s, t) for s, t in zip(STUDENT, TEACHER, strict=True)], rel=1e-6)


def test_the_larger_map_is_averaged_to_the_smaller() -> None:
    small = attention_map(torch.tensor(TEACHER))
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert attention_loss(large, small).numpy() == pytest.approx(np.zeros(3), abs=1e-6)


def test_equal_maps_give_no_gradient_that_is_not_finite() -> None:
    features = torch.tensor(STUDENT, requires_grad=True)
    attention_loss(attention_map(features), attention_map(torch.tensor(STUDENT))).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_the_term_is_half_of_beta_times_the_sum_over_layers(short_run: Path) -> None:
    parts = AttentionTransfer(teacher=str(short_run), layers="conv*", loss_weight=6.0).build(of_digits())
    index, images = np.arange(3), torch.rand(3, 1, 8, 8)
    batch = parts.batch_transforms[0].apply(Batch(images, torch.zeros(3, dtype=torch.int64), index, index), Key(0))
    features = {capture.name: torch.rand(3, 8, 6 - 2 * n, 6 - 2 * n) for n, capture in enumerate(parts.feature_taps)}
    assert [capture.module for capture in parts.feature_taps] == ["conv1", "conv2"]
    found = parts.loss_terms[0].weight * parts.loss_terms[0].apply(ModelOutputs(torch.zeros(3, 10), features), batch)
    maps = [(features[name].square().sum(1), batch.extras[name]) for name in features]
    expected = 3.0 * sum(
        (
            s.flatten(1) / s.flatten(1).norm(dim=1, keepdim=True)
            - t.flatten(1) / t.flatten(1).norm(dim=1, keepdim=True)
        ).norm(dim=1)
        for s, t in maps
    )
    assert torch.allclose(found, torch.as_tensor(expected), atol=1e-5)


def test_modules_without_maps_are_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden of the teacher returns 128(.|\n)*distill=fitnet"):
        AttentionTransfer(teacher=str(short_run), layers="hidden").build(of_digits())


def test_a_teacher_with_other_classes_may_show_where_it_looks(short_run: Path) -> None:
    AttentionTransfer(teacher=str(short_run), layers="conv1").build(
        of_digits(num_classes=3, class_names=("a", "b", "c"))
    )


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise(short_run: Path, tmp_path: Path) -> None:
    assert_goes_on_bitwise(
        tmp_path, *taught_by(short_run, "attention_transfer"), "distill.layers=conv*", "distill.cache=memory"
    )
