"""Decoupled distillation: the formula by hand, and its sum back to plain distillation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import class_spec
from students import assert_goes_on_bitwise, taught_by

from dnntrain.choices.distill.dkd import Dkd, dkd_loss
from dnntrain.choices.distill.kd import kd_loss
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.protocols import BatchStage, BatchTransform, Hooks

STUDENT = np.array([[1.0, 2.0, 0.5, -1.0], [0.0, -1.0, 3.0, 0.3]])
TEACHER = np.array([[2.0, 0.0, 1.0, 0.4], [-1.0, 0.5, 2.0, 1.0]])
TARGETS = np.array([1, 2])


def by_hand(student: np.ndarray, teacher: np.ndarray, target: int, t: float, alpha: float, beta: float) -> float:
    q, p = np.exp(student / t) / np.exp(student / t).sum(), np.exp(teacher / t) / np.exp(teacher / t).sum()
    b_p, b_q = np.array([p[target], 1 - p[target]]), np.array([q[target], 1 - q[target]])
    hat_p, hat_q = np.delete(p, target) / (1 - p[target]), np.delete(q, target) / (1 - q[target])
    return float(t**2 * (alpha * (b_p * np.log(b_p / b_q)).sum() + beta * (hat_p * np.log(hat_p / hat_q)).sum()))


def test_the_loss_is_that_of_the_paper() -> None:
    found = dkd_loss(torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(TARGETS), 3.0, 1.5, 6.0)
    expected = [by_hand(s, t, target, 3.0, 1.5, 6.0) for s, t, target in zip(STUDENT, TEACHER, TARGETS, strict=True)]
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_the_parts_weighed_by_the_teachers_doubt_are_plain_distillation() -> None:
    """KD = TCKD + (1 - p_target) NCKD (equation 7 of the paper)."""
    student, teacher, targets = torch.tensor(STUDENT[:1]), torch.tensor(TEACHER[:1]), torch.tensor(TARGETS[:1])
    doubt = 1 - float(torch.softmax(teacher / 2, 1)[0, TARGETS[0]])
    assert float(dkd_loss(student, teacher, targets, 2.0, 1.0, doubt)) == pytest.approx(
        float(kd_loss(student, teacher, 2.0)), rel=1e-5
    )


@pytest.mark.slow
def test_the_plan_advises_a_smaller_beta_for_few_classes(short_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for beta, advised in (("8", True), ("1", False)):
        assert main(["plan", "--json", *taught_by(short_run, "dkd"), f"distill.beta={beta}"]) == 0
        assert ("try distill.beta=1" in capsys.readouterr().out) is advised
    assert Dkd(teacher="x").notes(class_spec(100)) == ()


def test_mixed_targets_are_refused(short_run: Path) -> None:
    mixed = Hooks(batch_transforms=(BatchTransform(BatchStage.MIX, lambda batch, key: batch),))
    with pytest.raises(ConfigError, match=r"have several(.|\n)*distill=kd"):
        Dkd(teacher=str(short_run)).check_with(mixed)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise(short_run: Path, tmp_path: Path) -> None:
    assert_goes_on_bitwise(tmp_path, *taught_by(short_run, "dkd"))
