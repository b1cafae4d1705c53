"""The part of a model that clients and the server exchange, as one flat vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def find_sum_device(device: str) -> str:
    """Return the device for sums in float64: the CPU for Apple's GPUs, which have none."""
    return "cpu" if device.startswith("mps") else device


class Payload:
    """The trained parameters of a model, then its statistics: float64 [size].

    Frozen parameters are not sent, since they never change. Statistics are buffers, such as the
    running means of batch norm; those of whole numbers are rounded to the nearest when they are
    written.
    """

    def __init__(self, model: nn.Module) -> None:
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in parameters}
        self._tensors: list[Tensor] = [*trained.values(), *(value for value in buffers.values() if value.numel())]
        self.weight_sizes = [value.numel() for value in trained.values()]
        self.weights = sum(self.weight_sizes)
        self.size = sum(value.numel() for value in self._tensors)

    @torch.no_grad()
    def read(self, device: str) -> Tensor:
        """Return the values of the model on `device`, one of `find_sum_device`."""
        return torch.cat([value.detach().reshape(-1).to(device).double() for value in self._tensors])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Set the values of the model."""
        parts = torch.split(vector, [value.numel() for value in self._tensors])
        for value, part in zip(self._tensors, parts, strict=True):
            part = part if value.is_floating_point() else part.round()
            value.data.copy_(part.to(value.dtype).view(value.shape))

    def split_weights(self, vector: Tensor) -> list[Tensor]:
        """Return the part of each trained parameter, without the statistics."""
        return list(torch.split(vector[: self.weights], self.weight_sizes))
