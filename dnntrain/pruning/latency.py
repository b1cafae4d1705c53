"""Measure how much faster a cut network is: both are timed in turns, so that load concerns both."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import nn

from dnntrain.nn.shape import ModelShape
from dnntrain.pruning.verify import make_random_inputs

#: Pairs of timed blocks, and the shortest block in seconds.
_PAIRS = 9
_BLOCK_S = 0.01


def measure_latency_ratio(model: nn.Module, reference: nn.Module, shape: ModelShape, device: str = "cpu") -> float:
    """Return the latency of one example as a multiple of `reference`'s: the median of paired blocks."""
    return statistics.median(measure_latency_ratios(model, reference, shape, device=device))


def measure_latency_ratios(
    model: nn.Module, reference: nn.Module, shape: ModelShape, pairs: int = _PAIRS, device: str = "cpu"
) -> list[float]:
    """Return the ratio of latencies on `device` in each pair of blocks; the networks stay where they are."""
    images = make_random_inputs(shape.make_zeros(1), 1).to(device)
    model, reference = (copy.deepcopy(network).to(device).eval() for network in (model, reference))
    models = (model, reference)
    with torch.inference_mode():
        for network in models:
            for _ in range(3):
                network(images)
        passes = max(1, round(_BLOCK_S / max(_time_passes(reference, images, 1), 1e-6)))
        ratios = []
        for pair in range(pairs):
            # The order changes from pair to pair.
            first, second = models if pair % 2 else models[::-1]
            times = {id(first): _time_passes(first, images, passes), id(second): _time_passes(second, images, passes)}
            ratios.append(times[id(model)] / times[id(reference)])
    return ratios


def _time_passes(model: nn.Module, images: torch.Tensor, passes: int) -> float:
    _synchronize(images.device)
    start_s = time.perf_counter()
    for _ in range(passes):
        model(images)
    _synchronize(images.device)
    return time.perf_counter() - start_s


def _synchronize(device: torch.device) -> None:
    """Wait until the device has computed all that was asked of it."""
    if device.type in ("cuda", "mps"):
        torch.accelerator.synchronize(device)
