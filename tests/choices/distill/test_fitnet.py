"""Hints: the formula, regressors that fit both shapes, and a run that exports the student alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from short_runs import trained
from students import assert_goes_on_bitwise, assert_trains_as_one_process, of_digits, student, taught_by

from dnntrain.choices.distill.fitnet import Fitnet, hint_loss, make_regressor
from dnntrain.errors import ConfigError
from dnntrain.nn.feature_capture import FeatureCapture, add_adapters, remove_adapters
from dnntrain.nn.init import initialize_weights
from dnntrain.protocols import Batch, ModelOutputs
from dnntrain.utils.rng import Key

LAYERS = ("distill.layers=[conv2,hidden]",)


def test_the_loss_is_half_the_squared_distance() -> None:
    guided, hint = np.arange(12.0).reshape(2, 3, 2), np.ones((2, 3, 2))
    expected = [0.5 * ((hint[row] - guided[row]) ** 2).sum() for row in range(2)]
    assert hint_loss(torch.tensor(guided), torch.tensor(hint)).numpy() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((4, 8, 8), (16, 8, 8)), ((4, 8, 8), (6, 4, 4)), ((4, 3, 3), (6, 7, 7)), ((5,), (9,)), ((6, 4), (6, 8))],
)
def test_a_regressor_gives_the_shape_of_the_hint(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    assert make_regressor("m", ours, theirs)(torch.rand(2, *ours)).shape == (2, *theirs)


def test_a_map_and_a_vector_are_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match="8x"):
        Fitnet(teacher=str(short_run), layers="conv1", teacher_layers="hidden").build(of_digits())


def test_gradients_reach_student_and_regressors_only(short_run: Path) -> None:
    parts = Fitnet(teacher=str(short_run), layers=("conv2", "hidden")).build(of_digits())
    model = student()
    initialize_weights(model, 0)
    add_adapters(model, parts.feature_taps)
    index = np.arange(4)
    batch = Batch(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), index, index)
    batch = parts.batch_transforms[0].apply(batch, Key(0))
    parts.loss_terms[0].apply(
        ModelOutputs(*FeatureCapture(model, parts.feature_taps)(batch.inputs)), batch
    ).sum().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if not name.startswith("head")}
    assert not any(tensor.requires_grad for tensor in batch.extras.values())


def test_first_weights_of_regressors_follow_from_the_seed(short_run: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.rand(3)
        (capture,) = Fitnet(teacher=str(short_run), layers="hidden").build(of_digits(seed=seed)).feature_taps
        assert capture.adapter is not None
        weights.append(capture.adapter.state_dict()["weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_an_unknown_layer_is_refused_with_the_nearest_before_anything_starts(
    short_run: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    refused = dnntrain("plan", *taught_by(short_run, "fitnet"), "distill.layers=conv3")
    assert refused.returncode == 2
    assert "distill.layers=conv3 does not match a module" in refused.stderr
    assert "conv2" in refused.stderr
    missing = dnntrain("plan", *taught_by(short_run, "fitnet"))
    assert "distill.layers: needs a value" in missing.stderr


def test_other_numbers_of_layers_are_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 modules of the student(.|\n)*1 of the teacher"):
        Fitnet(teacher=str(short_run), layers="conv*", teacher_layers="conv1").build(of_digits())


def test_several_teachers_are_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be averaged(.|\n)*distill=kd"):
        Fitnet(teacher=(str(short_run), str(short_run)), layers="conv1").build(of_digits())


@pytest.mark.slow
def test_the_export_is_the_student_alone(short_run: Path, tmp_path: Path) -> None:
    assert trained(tmp_path / "run", *taught_by(short_run, "fitnet"), *LAYERS)["status"] == "done"
    with safe_open(tmp_path / "run/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(student().state_dict())


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise_with_its_regressors(short_run: Path, tmp_path: Path) -> None:
    assert_goes_on_bitwise(tmp_path, *taught_by(short_run, "fitnet"), *LAYERS, "reg=[]", "average=[ema]")


@pytest.mark.slow
def test_what_is_captured_is_the_same_in_a_compiled_graph(short_run: Path) -> None:
    parts = Fitnet(teacher=str(short_run), layers=("conv2", "hidden")).build(of_digits())
    model = student()
    initialize_weights(model, 0)
    add_adapters(model, parts.feature_taps)
    capturing, images = FeatureCapture(model, parts.feature_taps), torch.rand(3, 1, 8, 8)
    logits, features = capturing(images)
    compiled_logits, compiled = torch.compile(capturing, backend="aot_eager")(images)
    assert torch.allclose(logits, compiled_logits, atol=1e-6)
    assert all(torch.allclose(features[name], compiled[name], atol=1e-6) for name in features)


def test_captures_are_taken_out_of_what_is_exported(short_run: Path) -> None:
    parts = Fitnet(teacher=str(short_run), layers="hidden").build(of_digits())
    model = student()
    add_adapters(model, parts.feature_taps)
    FeatureCapture(model, parts.feature_taps)
    remove_adapters(model)
    assert set(model.state_dict()) == set(student().state_dict())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.slow
def test_two_ranks_train_the_run_of_one_process(
    short_run: Path, tmp_path: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert_trains_as_one_process(dnntrain, tmp_path, *taught_by(short_run, "fitnet"), *LAYERS)
