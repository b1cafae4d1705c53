"""Relational distillation: distances and angles by hand, in whole blocks, on logits or features."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from students import TWO_RANKS, assert_goes_on_bitwise, assert_trains_as_one_process, of_digits, taught_by

from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.choices.distill.rkd import Rkd, angle_loss, distance_loss
from dnntrain.errors import ConfigError
from dnntrain.protocols import Batch, LayoutRequirement, ModelOutputs

GENERATOR = np.random.default_rng(1)
STUDENT, TEACHER = GENERATOR.normal(size=(2, 5, 3)), 3 * GENERATOR.normal(size=(2, 5, 7))


def huber(x: float, y: float) -> float:
    return 0.5 * (x - y) ** 2 if abs(x - y) <= 1 else abs(x - y) - 0.5


def distances(rows: np.ndarray) -> np.ndarray:
    found = np.array([np.linalg.norm(rows[i] - rows[j]) for i, j in combinations(range(len(rows)), 2)])
    return np.asarray(found / found.mean())


def cosine(rows: np.ndarray, i: int, j: int, k: int) -> float:
    a, b = rows[i] - rows[j], rows[k] - rows[j]
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_distances_are_compared_after_division_by_their_mean() -> None:
    found = distance_loss(torch.tensor(STUDENT), torch.tensor(TEACHER))
    expected = [
        np.mean([huber(s, t) for s, t in zip(distances(STUDENT[b]), distances(TEACHER[b]), strict=True)])
        for b in range(2)
    ]
    assert found.numpy() == pytest.approx(expected, rel=1e-6)


def test_angles_of_all_triples_are_compared() -> None:
    found = angle_loss(torch.tensor(STUDENT), torch.tensor(TEACHER))
    expected = [
        np.mean([huber(cosine(STUDENT[b], *t), cosine(TEACHER[b], *t)) for t in permutations(range(5), 3)])
        for b in range(2)
    ]
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def authors_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """25 RkdDistance + 50 RKdAngle of lenscloth/RKD (metric/loss.py) for one batch [n, values]."""

    def pdist(rows: torch.Tensor) -> torch.Tensor:
        squares = rows.pow(2).sum(dim=1)
        products = rows @ rows.t()
        distances = (squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * products).clamp(min=1e-12).sqrt().clone()
        distances[range(len(rows)), range(len(rows))] = 0
        return distances / distances[distances > 0].mean()

    def angles(rows: torch.Tensor) -> torch.Tensor:
        arms = torch.nn.functional.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), p=2, dim=2)
        return torch.bmm(arms, arms.transpose(1, 2)).view(-1)

    loss = torch.nn.functional.smooth_l1_loss
    return 25 * loss(pdist(student), pdist(teacher)) + 50 * loss(angles(student), angles(teacher))


@pytest.mark.parametrize("pair_block", [4, 8])
def test_default_weights_and_normalizers_are_those_of_the_authors_code(short_run: Path, pair_block: int) -> None:
    parts = Rkd(teacher=str(short_run)).build(of_digits(batch_size=16, pair_block=pair_block))
    index, random = np.arange(16), torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(16, 10, generator=random, dtype=torch.float64) for _ in range(2))
    batch = Batch(torch.zeros(16, 1, 8, 8), torch.zeros(16), index, index, 0, {LOGITS: teacher[:, None]})
    found = sum(term.weight * term.apply(ModelOutputs(student, {}), batch) for term in parts.loss_terms)
    for start in range(0, 16, pair_block):
        block = slice(start, start + pair_block)
        expected = authors_loss(student[block], teacher[block])
        assert found[block].tolist() == pytest.approx([float(expected)] * pair_block, rel=1e-5)  # type: ignore[index]


def test_examples_that_agree_give_no_gradient_that_is_not_finite() -> None:
    rows = torch.zeros(1, 4, 3, requires_grad=True)
    (distance_loss(rows, torch.randn(1, 4, 3)) + angle_loss(rows, torch.randn(1, 4, 3))).sum().backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_an_uneven_last_step_is_left_out_for_layouts_cut_it(short_run: Path) -> None:
    parts = Rkd(teacher=str(short_run)).build(of_digits(batch_size=16, train_examples=40, steps_per_epoch=3))
    for start, related in ((16, True), (32, False)):
        index = np.arange(start, start + 8)
        batch = Batch(torch.zeros(8, 1, 8, 8), torch.zeros(8), index, index, 0, {LOGITS: torch.randn(8, 1, 10)})
        logits = torch.randn(8, 10, requires_grad=True)
        loss = parts.loss_terms[0].apply(ModelOutputs(logits, {}), batch)
        loss.sum().backward()
        assert bool((loss > 0).all()) is related


def test_features_need_a_layout_that_gives_them() -> None:
    assert Rkd(teacher="x").needs == frozenset()
    assert Rkd(teacher="x", layer="hidden").needs == {LayoutRequirement.FEATURES}


def test_a_layer_of_the_teacher_alone_is_refused(short_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"no effect without distill.layer"):
        Rkd(teacher=str(short_run), teacher_layer="hidden").build(of_digits())


@pytest.mark.slow
def test_blocks_that_a_layout_would_cut_are_refused(
    short_run: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    refused = dnntrain("plan", *taught_by(short_run, "rkd"), "train.micro_batch_size=4")
    assert refused.returncode == 2
    assert "data.mix_block_size=4, or train.micro_batch_size=8" in refused.stderr


@pytest.mark.slow
def test_a_batch_without_a_whole_block_to_relate_is_refused(
    short_run: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    refused = dnntrain("plan", *taught_by(short_run, "rkd"), "train.batch_size=4")
    assert refused.returncode == 2
    assert "data.mix_block_size=8, but train.batch_size=4 is smaller than a block" in refused.stderr
    assert "use data.mix_block_size=4, or use train.batch_size=8 or more" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["null", "hidden"])
def test_a_run_that_was_stopped_goes_on_bitwise(short_run: Path, tmp_path: Path, layer: str) -> None:
    assert_goes_on_bitwise(tmp_path, *taught_by(short_run, "rkd"), f"distill.layer={layer}")


@pytest.mark.slow
def test_two_ranks_and_accumulation_train_the_run_of_one_process(
    short_run: Path, tmp_path: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = (*taught_by(short_run, "rkd"), "distill.layer=hidden")
    layouts = {**TWO_RANKS, "cut": ("train.micro_batch_size=8",)}
    assert_trains_as_one_process(dnntrain, tmp_path, *words, layouts=layouts)
