"""The executor gives the gradient of the global mean, however the batch is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dnntrain.choices.reg.grad_clip import clip_by_norm
from dnntrain.choices.task.classification import Classification
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.protocols import Batch, LossTerm, SingleProcess, StepBatch
from dnntrain.training.loss import build_objective
from dnntrain.training.optimizer_step import build_apply


def batch_of(images: torch.Tensor, targets: torch.Tensor) -> Batch:
    index = np.arange(len(images))
    return Batch(images, targets, index, index)


def gradients(sizes: list[int], terms: tuple[LossTerm, ...] = ()) -> tuple[list[torch.Tensor], float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    images, targets = torch.randn(12, 5), torch.randint(0, 3, (12,))
    executor = SpmdExecutor(model, build_objective(Classification(), 0.1, terms), device="cpu")
    micro = [batch_of(a, b) for a, b in zip(images.split(sizes), targets.split(sizes), strict=True)]
    loss = executor.compute_gradients(StepBatch(micro, 12))
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], float(loss.total)


@pytest.mark.parametrize("sizes", [[6, 6], [5, 5, 2], [1] * 12])
def test_accumulation_over_uneven_micro_batches_equals_the_whole_batch(sizes: list[int]) -> None:
    whole, whole_loss = gradients([12])
    parts, parts_loss = gradients(sizes)
    assert parts_loss == pytest.approx(whole_loss, rel=1e-6)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_a_further_loss_term_is_added_with_its_weight() -> None:
    plain, plain_loss = gradients([12])
    term = LossTerm("square", lambda outputs, batch: outputs.outputs.square().sum(1), weight=0.5)
    more, more_loss = gradients([12], (term,))
    assert more_loss > plain_loss
    assert not torch.equal(plain[0], more[0])


def test_gradient_equals_that_of_torchs_mean_cross_entropy() -> None:
    ours, loss = gradients([12])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    images, targets = torch.randn(12, 5), torch.randint(0, 3, (12,))
    reference = nn.functional.cross_entropy(model(images), targets, label_smoothing=0.1)
    reference.backward()
    assert loss / 12 == pytest.approx(reference.item(), rel=1e-6)
    for a, b in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_bounds_the_global_norm_and_reports_it(max_norm: float) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    before = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()
    seen: dict[str, torch.Tensor] = {}
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    start = [parameter.detach().clone() for parameter in parameters]
    build_apply([optimizer], parameters, [clip_by_norm(max_norm, SingleProcess())], seen.update, None)()
    moved = torch.cat([(a - b.detach()).flatten() for a, b in zip(start, parameters, strict=True)]).norm()
    torch.testing.assert_close(seen["grad_norm"], before)
    torch.testing.assert_close(moved, torch.minimum(before, torch.tensor(max_norm)), rtol=1e-4, atol=0)
    assert all(parameter.grad is None for parameter in parameters)
