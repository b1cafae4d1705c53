"""Compile a module with Inductor, with its weights frozen in, for any number of examples."""

from __future__ import annotations

import bisect
import warnings

import torch
from torch import Tensor, nn

from dnntrain.utils.hardware import get_device_type


class CompiledModel:
    """Run `module`, compiled for fixed numbers of examples.

    A program for a fixed number is several times faster than a program for any number. A batch
    smaller than an earlier one is padded to its size, so that the last batch of a data set compiles
    nothing. The first call for a larger number takes seconds. `autocast` is the precision of the
    arithmetic, if it is not float32.
    """

    def __init__(self, module: nn.Module, device: str = "cpu", autocast: torch.dtype | None = None) -> None:
        self._device = device
        self._kind = get_device_type(device)
        self._autocast = autocast
        self._sizes: list[int] = []
        self._run = torch.compile(module, dynamic=False)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        position = bisect.bisect_left(self._sizes, count)
        inputs = inputs.to(self._device)
        if position == len(self._sizes):
            outputs = self._compile_and_run(inputs)
            self._sizes.append(count)
            return outputs
        if self._sizes[position] > count:
            inputs = torch.cat([inputs, inputs.new_zeros(self._sizes[position] - count, *inputs.shape[1:])])
        return self._run_autocast(inputs)[:count]

    def _run_autocast(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self._kind, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            outputs: Tensor = self._run(inputs.contiguous())
        return outputs.float()

    def _compile_and_run(self, inputs: Tensor) -> Tensor:
        """Compile for this number of examples and run."""
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        with warnings.catch_warnings(), inductor.patch(freezing=True), dynamo.patch(recompile_limit=64):
            warnings.simplefilter("ignore")
            return self._run_autocast(inputs)
