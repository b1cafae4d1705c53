"""Knowledge distillation: the formula, its weights, and whole runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from short_runs import trained
from students import assert_goes_on_bitwise, assert_trains_as_one_process, of_digits, taught_by

from dnntrain.choices.distill._ensemble import combine_logits
from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.choices.distill.kd import Kd, kd_loss
from dnntrain.choices.task.classification import Classification
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, ModelOutputs
from dnntrain.training.loss import build_objective
from dnntrain.utils.rng import Key

STUDENT = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
TEACHER = np.array([[2.0, 0.0, 1.0], [-1.0, 0.5, 2.0]])


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray((p * np.log(p / q)).sum(-1))


def batch(targets: list[int], extras: dict[str, torch.Tensor]) -> Batch:
    index = np.arange(len(targets))
    return Batch(torch.zeros(len(targets), 1, 8, 8), torch.tensor(targets), index, index, 0, extras)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_divergence_of_softened_probabilities_times_the_squared_temperature(temperature: float) -> None:
    expected = temperature**2 * kl(softmax(TEACHER / temperature), softmax(STUDENT / temperature))
    found = kd_loss(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_alpha_weighs_labels_against_teacher(short_run: Path) -> None:
    parts = Kd(teacher=str(short_run), label_loss_weight=0.1, loss_weight=0.9, temperature=2.0).build(of_digits())
    student, teacher = np.linspace(-1, 1, 20).reshape(2, 10), np.cos(np.arange(20.0)).reshape(2, 10)
    labelled = batch([3, 7], {LOGITS: torch.tensor(teacher, dtype=torch.float32)[:, None]})
    found = build_objective(Classification(), 0.0, parts.loss_terms, parts.main_loss_weight)(
        ModelOutputs(torch.tensor(student, dtype=torch.float32), {}), labelled
    )
    cross_entropy = -np.log(softmax(student))[[0, 1], [3, 7]].sum()
    expected = 0.1 * cross_entropy + 0.9 * 4 * kl(softmax(teacher / 2), softmax(student / 2)).sum()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_several_teachers_are_averaged_as_logits_or_as_probabilities() -> None:
    both = torch.tensor(np.stack([TEACHER, STUDENT], 1))
    assert softmax(combine_logits(both, "logits", 4.0).numpy()) == pytest.approx(softmax((TEACHER + STUDENT) / 2))
    mean = (softmax(TEACHER / 4) + softmax(STUDENT / 4)) / 2
    assert softmax(combine_logits(both, "probabilities", 4.0).numpy() / 4) == pytest.approx(mean)


def test_probabilities_of_one_teacher_are_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match="no effect with one teacher"):
        Kd(teacher=str(short_run), ensemble="probabilities").build(of_digits())


def test_gradients_reach_the_student_only(short_run: Path) -> None:
    parts = Kd(teacher=str(short_run)).build(of_digits())
    seen = batch([3, 7], {})
    seen.inputs = torch.rand(2, 1, 8, 8, requires_grad=True)
    taught = parts.batch_transforms[0].apply(seen, Key(0))
    logits = torch.zeros(2, 10, requires_grad=True)
    parts.loss_terms[0].apply(ModelOutputs(logits, {}), taught).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert seen.inputs.grad is None
    assert not taught.extras[LOGITS].requires_grad


@pytest.mark.slow
def test_a_student_trains_and_its_export_is_the_student_alone(short_run: Path, tmp_path: Path) -> None:
    words = taught_by(short_run, "kd")
    ended = trained(tmp_path / "run", *words)
    assert ended["status"] == "done"
    alone = trained(tmp_path / "alone", *words[:5])
    assert ended["digest"] != alone["digest"]
    with (
        safe_open(tmp_path / "run/model.safetensors", "pt") as file,
        safe_open(tmp_path / "alone/model.safetensors", "pt") as plain,
    ):
        assert set(file.keys()) == set(plain.keys())


@pytest.mark.slow
def test_two_teachers_teach(short_run: Path, tmp_path: Path) -> None:
    words = [*taught_by(short_run, "kd")[:-1], f"distill.teacher=[{short_run},{short_run}]"]
    assert trained(tmp_path / "two", *words)["status"] == "done"


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise(short_run: Path, tmp_path: Path) -> None:
    assert_goes_on_bitwise(tmp_path, *taught_by(short_run, "kd"), "augment.crop.padding=1", "distill.cache=memory")


@pytest.mark.slow
def test_a_compiled_teacher_says_the_same(short_run: Path) -> None:
    said = []
    for compiled in (False, True):
        teach = Kd(teacher=str(short_run), teacher_compile=compiled).build(of_digits()).batch_transforms[0].apply
        torch.manual_seed(0)
        seen = batch([0] * 40, {})
        seen.inputs = torch.rand(40, 1, 8, 8)
        said.append(teach(seen, Key(0)).extras[LOGITS])
    assert torch.allclose(said[0], said[1], atol=1e-5)


@pytest.mark.slow
def test_two_ranks_train_the_run_of_one_process(
    short_run: Path, tmp_path: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert_trains_as_one_process(dnntrain, tmp_path, *taught_by(short_run, "kd"), steps=20)
