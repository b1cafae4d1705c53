"""A compiled decoder reads texts of several lengths with one more graph, which is for all of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from test_int8_embedding import SHAPE
from torch._dynamo.testing import CompileCounterWithBackend

from dnntrain.nn.decoder import Decoder


@pytest.mark.slow
def test_other_lengths_compile_once_more_and_compute_the_same() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Decoder(replace(SHAPE, context=32, tied_head=False))
    compiled, counter = copy.deepcopy(model), CompileCounterWithBackend("aot_eager")
    compiled.compile(backend=counter)
    for length in (8, 16, 24, 32):
        tokens = torch.randint(40, (3, length))
        for module in (model, compiled):
            module(tokens).logsumexp(-1).sum().backward()
        for own, other in zip(compiled.parameters(), model.parameters(), strict=True):
            assert own.grad is not None
            assert torch.allclose(own.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 2
