"""The cross-entropy of a part of the positions at a time: the value and the gradients of the plain one."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from dnntrain.nn import chunked_loss
from dnntrain.protocols import DeferredLogits


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(
    cap: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_loss, "_CHUNK_BYTES", rows * 4 * 11)
    torch.manual_seed(0)
    targets = torch.randint(0, 11, (3, 5))
    gradients = []
    for is_chunked in (False, True):
        torch.manual_seed(1)
        features, weight = torch.randn(3, 5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
        logits = DeferredLogits(features, weight, cap)
        if is_chunked:
            loss = chunked_loss.compute_chunked_loss(logits, targets)
            with torch.no_grad():
                assert chunked_loss.compute_chunked_loss(logits, targets) == pytest.approx(float(loss.detach()))
                assert chunked_loss.compute_token_losses(logits, targets).shape == (3, 5)
        else:
            loss = cross_entropy(logits.compute().flatten(0, 1), targets.flatten(), reduction="sum")
        (0.5 * loss).backward()
        gradients.append((loss.detach(), features.grad, weight.grad))
    for plain, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-6)


def test_no_position_has_no_loss_and_gradients_of_zero() -> None:
    features, weight = torch.randn(0, 5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    loss = chunked_loss.compute_chunked_loss(
        DeferredLogits(features, weight, 0.0), torch.empty(0, 5, dtype=torch.int64)
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_low_precision_keeps_the_types_of_its_tensors() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 8).bfloat16().requires_grad_()
    weight = torch.randn(11, 8).bfloat16().requires_grad_()
    chunked_loss.compute_chunked_loss(
        DeferredLogits(features, weight, 0.0), torch.ones(2, 3, dtype=torch.int64)
    ).backward()
    assert (features.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)
