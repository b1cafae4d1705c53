"""Read the batches of a calibration, and say how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

#: The longest silence of a calibration, in seconds.
_SILENCE_S = 2.0
#: The time of a calibration over the time of a forward pass for each example alone.
_CALIBRATION_FACTOR = 0.5


class CalibrationBatches:
    """Batches that say how many of them are read, at most once in two seconds."""

    def __init__(self, batches: Sequence[Tensor], say: Callable[[str], None]) -> None:
        self._batches, self._say = batches, say

    def __iter__(self) -> Iterator[Tensor]:
        last_s = time.monotonic()
        for number, batch in enumerate(self._batches, 1):
            if time.monotonic() - last_s > _SILENCE_S:
                last_s = time.monotonic()
                self._say(f"calibrating: {number} of {len(self._batches)}")
            yield batch


@torch.no_grad()
def estimate_calibration_s(model: torch.nn.Module, batches: Sequence[Tensor]) -> float:
    """Return the seconds of a forward pass over all batches, by one example, with the measurement of ranges."""
    start_s = time.perf_counter()
    model(batches[0][:1])
    examples = sum(map(len, batches))
    return _CALIBRATION_FACTOR * examples * (time.perf_counter() - start_s)
