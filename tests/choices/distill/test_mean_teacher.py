"""Self-distillation: the average by hand, its saved state, and no teacher in the export."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from short_runs import trained
from stand_ins import built, context
from students import SMALL, assert_goes_on_bitwise, assert_trains_as_one_process, student

from dnntrain.choices.distill.kd import kd_loss
from dnntrain.choices.distill.mean_teacher import EmaTeacher, MeanTeacher
from dnntrain.protocols import Batch, ModelOutputs, StepInfo


def test_the_teacher_is_the_average_of_the_weights_so_far() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = EmaTeacher(decay=0.75, warmup=False, precision="fp32")
    torch.nn.init.constant_(model.weight, 1.0)
    average.bind(built(model))
    for step, weight in enumerate((3.0, 5.0)):
        torch.nn.init.constant_(model.weight, weight)
        average(StepInfo(step, 0.0, 0.0))
    # 1 → 0.75 + 0.25 · 3 = 1.5 → 0.75 · 1.5 + 0.25 · 5 = 2.375
    assert float(average.compute_logits(torch.ones(1, 1))) == pytest.approx(2.375)


def test_the_term_is_the_divergence_from_the_average_and_reaches_the_student_only() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    parts = MeanTeacher(temperature=2.0).build(context())
    teacher = parts.state["self_teacher"]
    teacher.bind(built(model))  # type: ignore[attr-defined]
    index, images = np.arange(3), torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected_teacher = model(images)
        model[1].weight.add_(0.1 * torch.randn(10, 64))
    logits = model(images)
    loss = parts.loss_terms[0].apply(ModelOutputs(logits, {}), Batch(images, torch.zeros(3), index, index))
    assert torch.allclose(loss, kd_loss(logits, expected_teacher, 2.0))
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in teacher._model.parameters())  # type: ignore[attr-defined]
    assert model[1].weight.grad is not None


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise_with_its_average(tmp_path: Path) -> None:
    assert_goes_on_bitwise(tmp_path, *SMALL, "distill=mean_teacher", "distill.decay=0.9", "reg=[]", "average=[ema]")


@pytest.mark.slow
def test_the_export_is_the_student_alone(tmp_path: Path) -> None:
    ended = trained(tmp_path / "run", *SMALL, "distill=mean_teacher")
    assert ended["digest"] != trained(tmp_path / "alone", *SMALL)["digest"]
    with safe_open(tmp_path / "run/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(student().state_dict())


@pytest.mark.slow
def test_two_ranks_train_the_run_of_one_process(
    tmp_path: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert_trains_as_one_process(dnntrain, tmp_path, *SMALL, "distill=mean_teacher")
