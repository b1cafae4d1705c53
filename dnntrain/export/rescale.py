"""Let exported models give estimates in the units of the target, and read such estimates back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dnntrain.export.formats import Runner
from dnntrain.protocols import OutputSpec


class RescaledModel(nn.Module):
    """A network followed by value * std + mean for each output."""

    def __init__(self, model: nn.Module, output: OutputSpec) -> None:
        super().__init__()
        self.model = model
        self.output_mean: Tensor
        self.output_std: Tensor
        self.register_buffer("output_mean", torch.tensor(output.mean))
        self.register_buffer("output_std", torch.tensor(output.std))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs)
        return outputs.float() * self.output_std + self.output_mean


def rescale_outputs(model: nn.Module, output: OutputSpec) -> nn.Module:
    """Return a model that gives its outputs in the units of the target; the same one if they have no scale."""
    return RescaledModel(model, output).eval() if output.std else model


def standardize_outputs(run: Runner, output: OutputSpec) -> Runner:
    """Return a runner that undoes `rescale_outputs`, so that its outputs are those of the network."""
    if not output.std:
        return run
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (output.mean, output.std))

    def run_standardized(inputs: Tensor) -> Tensor:
        outputs = run(inputs)
        # In double precision, since a mean may be many times the deviation.
        return ((outputs.cpu().double() - mean) / std).float().to(outputs.device)

    return run_standardized
