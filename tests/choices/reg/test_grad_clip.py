"""Each bound on the gradient equals torch's or timm's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_network import network, step
from stand_ins import context
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from dnntrain.choices.reg.grad_clip import GradClip


def but_the_head(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if not name.startswith("5.")]


@pytest.mark.parametrize(
    ("knobs", "reference"),
    [
        (GradClip(), lambda model: clip_grad_norm_(model.parameters(), 1.0)),
        (GradClip(max=1e6), lambda model: clip_grad_norm_(model.parameters(), 1e6)),
        (GradClip("value", 0.5), lambda model: clip_grad_value_(model.parameters(), 0.5)),
        (GradClip("adaptive"), lambda model: adaptive_clip_grad(but_the_head(model), 0.01)),
        (GradClip("adaptive", 5.0), lambda model: adaptive_clip_grad(but_the_head(model), 5.0)),
    ],
)
def test_the_step_is_the_references(knobs: GradClip, reference: Callable[[nn.Module], object]) -> None:
    model, expected = network(), network()
    step(model, knobs.build(context()), [torch.optim.SGD(model.parameters(), lr=0.1)])
    reference(expected)
    torch.optim.SGD(expected.parameters(), lr=0.1).step()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_norm_before_clipping_is_logged() -> None:
    model = network()
    squares = sum(
        float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None
    )
    seen = step(model, GradClip().build(context()), [torch.optim.SGD(model.parameters(), lr=0.1)])
    assert float(seen["grad_norm"]) == pytest.approx(squares**0.5, rel=1e-5)


def test_a_gradient_of_zero_stays_finite() -> None:
    for kind in ("norm", "value", "adaptive"):
        model = network()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        step(model, GradClip(kind).build(context()), [torch.optim.SGD(model.parameters(), lr=0.1)])  # type: ignore[arg-type]
        assert all(parameter.isfinite().all() for parameter in model.parameters())
