"""A replayed pass draws the numbers of the pass before, on the host and on the device."""

from __future__ import annotations

import pytest
import torch

from dnntrain.distributed.rng_replay import RngReplay

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_second_pass_draws_what_the_first_drew(device: str) -> None:
    def drawn() -> list[float]:
        return [*torch.rand(3).tolist(), *torch.rand(3, device=device).tolist()]

    numbers = RngReplay(device)
    drawn()
    numbers.save()
    first = drawn()
    numbers.restore()
    assert drawn() == first
    assert drawn() != first
