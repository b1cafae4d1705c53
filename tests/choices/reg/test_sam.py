"""SAM and ASAM equal a loop written from the papers, over any cut of the batch; dropout and running statistics see one batch once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stand_ins import built
from torch import nn
from torch.nn.functional import cross_entropy

from dnntrain.choices.reg.sam import SharpnessAwareStep, is_scaled
from dnntrain.choices.task.classification import Classification
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.protocols import Batch, StepBatch
from dnntrain.training.loss import build_objective
from dnntrain.training.optimizer_step import build_apply


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(12, 6), torch.randint(0, 3, (12,))) for _ in range(20)]


def trained(model: nn.Module, adaptive: bool, sizes: list[int]) -> list[float]:
    """20 steps with the project's parts; returns the losses."""
    executor = SpmdExecutor(model, build_objective(Classification(), 0.0, ()), device="cpu", replayable=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    apply = build_apply([optimizer], list(model.parameters()), (), lambda numbers: None, None)
    update = SharpnessAwareStep(0.3, adaptive)
    update.bind(built(model, [optimizer]))
    losses = []
    for images, targets in batches():
        cut = zip(images.split(sizes), targets.split(sizes), strict=True)
        micro = [Batch(a, b, np.arange(len(a)), np.arange(len(a))) for a, b in cut]
        losses.append(
            float(
                update(lambda replay=False, m=micro: executor.compute_gradients(StepBatch(m, 12), replay), apply).total
            )
        )
    return losses


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("sizes", [[12], [5, 5, 2]])
def test_twenty_steps_equal_the_papers_algorithm(adaptive: bool, sizes: list[int]) -> None:
    model, reference = network(), network()
    losses = trained(model, adaptive, sizes)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.2, momentum=0.9)
    for (images, targets), seen in zip(batches(), losses, strict=True):
        loss = cross_entropy(reference(images), targets)
        assert seen / 12 == pytest.approx(loss.item(), rel=1e-5)
        weights = [parameter.detach().clone() for parameter in reference.parameters()]
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        # As SamsungLabs/ASAM: `if "weight" in name`, so biases are not normalized.
        names = [name for name, _ in reference.named_parameters()]
        scales = [
            weight.abs() + 0.01 if adaptive and "weight" in name else torch.ones_like(weight)
            for name, weight in zip(names, weights, strict=True)
        ]
        norm = torch.cat([(scale * g).flatten() for scale, g in zip(scales, gradients, strict=True)]).norm()
        with torch.no_grad():
            for parameter, scale, gradient in zip(reference.parameters(), scales, gradients, strict=True):
                parameter += 0.3 * scale.square() * gradient / norm
        optimizer.zero_grad()
        cross_entropy(reference(images), targets).backward()
        with torch.no_grad():
            for parameter, weight in zip(reference.parameters(), weights, strict=True):
                parameter.copy_(weight)
        optimizer.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("conv1.weight", True),
        ("bn1.weight", True),
        ("attn.in_proj_weight", True),
        ("conv.parametrizations.weight.original", True),
        ("rnn.weight_ih_l0", True),
        ("conv1.bias", False),
        ("attn.in_proj_bias", False),
        ("weighted_pool.bias", False),
        ("conv.parametrizations.bias.original", False),
        ("pos_embed", False),
        ("cls_token", False),
        ("blocks.0.ls1.gamma", False),
    ],
)
def test_the_adaptive_form_scales_weights_and_no_biases(name: str, scaled: bool) -> None:
    assert is_scaled(name) is scaled


def test_both_passes_drop_the_same_numbers() -> None:
    seen: list[torch.Tensor] = []
    model = network(0.5)
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(output.detach() == 0))
    trained(model, False, [8, 4])
    steps = [seen[start : start + 4] for start in range(0, len(seen), 4)]
    assert all(torch.equal(a, c) and torch.equal(b, d) for a, b, c, d in steps)
    assert not torch.equal(steps[0][0], steps[1][0])


def test_running_statistics_and_frozen_weights_are_those_of_one_pass_without_sam() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    plain = nn.BatchNorm1d(6)
    model[1].bias.requires_grad_(False)
    bias = model[1].bias.clone()
    trained(model, False, [12])
    for images, _ in batches():
        plain(images)
    torch.testing.assert_close(model[0].running_mean, plain.running_mean)
    assert int(model[0].num_batches_tracked) == 20
    assert torch.equal(model[1].bias, bias)


def test_a_gradient_of_zero_leaves_the_weights_finite() -> None:
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert all(np.isfinite(trained(model, True, [12])))
