"""The cross-entropy of a part of the positions at a time: the value and the gradients of the plain one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dnntrain.nn import chunked_loss
from dnntrain.protocols import DeferredLogits, VocabularyShard


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


@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_shards_of_the_vocabulary_give_the_loss_and_the_gradients_of_the_whole(
    cap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_loss, "_CHUNK_BYTES", 4 * 4 * 6)
    torch.manual_seed(0)
    features, weight = torch.randn(3, 5, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)
    targets = torch.randint(0, 12, (3, 5))
    whole = DeferredLogits(features, weight, cap)
    expected = chunked_loss.compute_chunked_loss(whole, targets)
    expected.backward()
    barrier, tensors = threading.Barrier(2, timeout=30), [torch.empty(0)] * 2

    def reduce(rank: int, tensor: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
        tensors[rank] = tensor.detach()
        barrier.wait()
        result = operation(torch.stack(tensors))
        barrier.wait()
        return result

    def compute(rank: int) -> tuple[Tensor, ...]:
        part = weight.detach()[6 * rank : 6 * rank + 6].clone().requires_grad_()
        inputs = features.detach().clone().requires_grad_()
        shard = VocabularyShard(
            6 * rank,
            lambda: part,
            sum=lambda tensor: reduce(rank, tensor, lambda stacked: stacked.sum(0)),
            max=lambda tensor: reduce(rank, tensor, lambda stacked: stacked.amax(0)),
        )
        logits = DeferredLogits(inputs, part, cap, shard)
        loss = chunked_loss.compute_chunked_loss(logits, targets)
        loss.backward()
        with torch.no_grad():
            losses = chunked_loss.compute_token_losses(logits, targets)
        assert inputs.grad is not None
        assert part.grad is not None
        return loss.detach(), losses, inputs.grad, part.grad

    with ThreadPoolExecutor(2) as executor:
        first, second = executor.map(compute, range(2))
    for loss, losses, gradient, _ in (first, second):
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(losses, chunked_loss.compute_token_losses(whole, targets).detach())
        torch.testing.assert_close(gradient, features.grad)
    torch.testing.assert_close(torch.cat([first[3], second[3]]), weight.grad)
