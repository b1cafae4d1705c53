"""The diagnosis of a distillation: calibration, softness, the gap closed, and advice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from short_runs import trained

from dnntrain.prove.distillation import PairLogits, compute_distillation, compute_ece, compute_softness
from dnntrain.prove.run_prove import ProveOptions, prove_by_runs

TARGETS = np.arange(1000) % 4


def make_logits(accuracy: float, confidence: float = 0.8) -> np.ndarray:
    """Return logits of four classes that are right for the first share of the examples of each class."""
    is_right = np.arange(1000) // 4 < 250 * accuracy
    predicted = np.where(is_right, TARGETS, (TARGETS + 1) % 4)
    logits = np.zeros((1000, 4))
    logits[np.arange(1000), predicted] = math.log(3 * confidence / (1 - confidence))
    return logits


def make_pair(teacher: float, student: float, distilled: float, scale: float = 1.0) -> PairLogits:
    return PairLogits(scale * make_logits(teacher), make_logits(student), make_logits(distilled), TARGETS)


def test_ece_is_the_distance_of_accuracy_and_confidence():
    assert compute_ece(make_logits(0.8, 0.8), TARGETS) == pytest.approx(0, abs=1e-9)
    assert compute_ece(make_logits(0.6, 0.9), TARGETS) == pytest.approx(0.3)
    assert compute_ece(make_logits(1.0, 0.7), TARGETS) == pytest.approx(0.3)


def test_softness_goes_from_one_class_to_equal_probabilities():
    logits = make_logits(0.9)
    assert compute_softness(np.zeros((5, 4)), 1.0) == pytest.approx(1)
    assert compute_softness(1e3 * logits, 1.0) == pytest.approx(0)
    assert compute_softness(logits, 1.0) < compute_softness(logits, 4.0)


def test_the_gap_closed_is_the_share_of_the_way_from_student_to_teacher():
    pairs = [make_pair(0.91, 0.80, 0.85), make_pair(0.91, 0.82, 0.87)]
    facts = compute_distillation(pairs, 2.0)
    assert facts.gap_closed == pytest.approx(0.5, abs=0.02)
    assert facts.agreement[0] < facts.agreement[1] < 1
    assert not facts.advice
    assert "51 % of the gap" in facts.describe()[0]


@pytest.mark.parametrize(
    ("teacher", "student", "distilled", "scale", "temperature", "advice"),
    [
        (0.80, 0.80, 0.81, 1.0, 2.0, "too weak"),
        (0.96, 0.80, 0.81, 1.0, 2.0, "too strong"),
        (0.90, 0.80, 0.85, 1.0, 20.0, "distill.temperature=20 saturates"),
        (0.90, 0.80, 0.85, 50.0, 2.0, "Try distill.temperature=4."),
        (0.90, 0.80, 0.85, 50.0, None, None),
    ],
)
def test_advice_names_the_reason(teacher, student, distilled, scale, temperature, advice):
    facts = compute_distillation([make_pair(teacher, student, distilled, scale)], temperature)
    assert len(facts.advice) == (advice is not None)
    assert advice is None or advice in facts.advice[0]


def test_a_weaker_teacher_has_no_gap_to_close():
    facts = compute_distillation([make_pair(0.7, 0.8, 0.8)], 2.0)
    assert facts.gap_closed is None


def test_each_pair_is_judged_by_its_own_examples():
    """With eval.max_examples another seed has other examples."""
    pair = make_pair(0.91, 0.80, 0.85)
    order = np.random.default_rng(0).permutation(1000)
    other = PairLogits(*(values[order][:700] for values in vars(pair).values()))
    facts = compute_distillation([pair, other], 2.0)
    assert facts.teacher == pytest.approx(0.91, abs=0.02)
    assert facts.agreement[1] == pytest.approx(0.94, abs=0.03)


@pytest.mark.slow
def test_finished_runs_are_diagnosed_against_their_teacher(tmp_path):
    teacher = trained(tmp_path / "teacher")
    small = ("model.channels=[4,8]", "model.hidden=16")
    alone = trained(tmp_path / "alone", *small)
    distilled = trained(tmp_path / "distilled", *small, "distill=kd", f"distill.teacher={tmp_path / 'teacher'}")
    result = prove_by_runs([tmp_path / "alone"], [tmp_path / "distilled"], ProveOptions(), lambda text: None)
    facts = result.distillation
    assert facts is not None
    values = (facts.teacher, facts.student, facts.distilled)
    assert values == pytest.approx([run["value"] for run in (teacher, alone, distilled)])
    assert facts.temperature == 4.0
    assert 0 < facts.softness < 1
    assert result.as_json()["distillation"]["gap_closed"] == facts.gap_closed
    # A student without a teacher has nothing to diagnose.
    other = prove_by_runs([tmp_path / "alone"], [tmp_path / "alone"], ProveOptions(), lambda text: None)
    assert other.distillation is None
    # A seed that is tested on a part of the examples has a part of its own.
    limit = (*small, "eval.max_examples=100", "seed=1")
    trained(tmp_path / "alone1", *limit)
    trained(tmp_path / "distilled1", *limit, "distill=kd", f"distill.teacher={tmp_path / 'teacher'}")
    sets = [[tmp_path / name, tmp_path / f"{name}1"] for name in ("alone", "distilled")]
    both = prove_by_runs(*sets, ProveOptions(), lambda text: None)
    assert both.distillation is not None
    assert both.distillation.teacher == pytest.approx(facts.teacher, abs=0.1)
    assert both.test_set_error is not None
