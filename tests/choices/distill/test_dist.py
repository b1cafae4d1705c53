"""Distillation by correlations: numpy's Pearson correlation, and blocks that no layout cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from students import assert_goes_on_bitwise, of_digits, taught_by

from dnntrain.choices.distill._teacher_runner import LOGITS
from dnntrain.choices.distill.dist import Dist, inter_class_loss, intra_class_loss
from dnntrain.protocols import Batch, ModelOutputs

GENERATOR = np.random.default_rng(0)
STUDENT, TEACHER = GENERATOR.dirichlet(np.ones(5), (2, 8)), GENERATOR.dirichlet(np.ones(5), (2, 8))


def test_inter_class_is_one_less_the_correlation_over_classes() -> None:
    found = inter_class_loss(torch.tensor(STUDENT[0]), torch.tensor(TEACHER[0]))
    expected = [1 - np.corrcoef(STUDENT[0, row], TEACHER[0, row])[0, 1] for row in range(8)]
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_intra_class_is_one_less_the_correlation_over_the_examples_of_a_block() -> None:
    found = intra_class_loss(torch.tensor(STUDENT), torch.tensor(TEACHER))
    expected = [
        np.mean([1 - np.corrcoef(STUDENT[block, :, c], TEACHER[block, :, c])[0, 1] for c in range(5)])
        for block in range(2)
    ]
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_the_terms_do_not_depend_on_how_a_step_is_cut(short_run: Path) -> None:
    parts = Dist(teacher=str(short_run), temperature=2.0).build(
        of_digits(batch_size=20, train_examples=40, steps_per_epoch=2)
    )
    logits, taught = torch.randn(20, 10), torch.randn(20, 1, 10)

    def losses(start: int, end: int) -> torch.Tensor:
        index = np.arange(start, end)
        batch = Batch(
            torch.zeros(end - start, 1, 8, 8),
            torch.zeros(end - start),
            index,
            index + 20,
            0,
            {LOGITS: taught[start:end]},
        )
        return torch.stack([term.apply(ModelOutputs(logits[start:end], {}), batch) for term in parts.loss_terms])

    whole = losses(0, 20)
    assert torch.allclose(torch.cat([losses(0, 8), losses(8, 20)], 1), whole, atol=1e-6)
    assert (whole[1, :16] > 0).all()
    assert (whole[1, 16:] == 0).all()


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bitwise(short_run: Path, tmp_path: Path) -> None:
    assert_goes_on_bitwise(tmp_path, *taught_by(short_run, "dist"))
