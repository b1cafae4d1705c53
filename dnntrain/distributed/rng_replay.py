"""Repeat the random numbers of a forward pass."""

from __future__ import annotations

import torch


class RngReplay:
    """Saves the random generators of host and device to repeat a pass.

    The repeated pass has the same dropout.
    """

    def __init__(self, device: str | torch.device) -> None:
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None
        self.save()

    def begin_pass(self, replay: bool) -> None:
        """Save the generators before a pass, or restore them for a `replay`."""
        if replay:
            self.restore()
        else:
            self.save()

    def save(self) -> None:
        """Save the state from which `restore` repeats the random numbers."""
        self._host = torch.get_rng_state()
        # Layers on a GPU use the generator of the GPU.
        self._device = torch.cuda.get_rng_state(self._cuda) if self._cuda is not None else None

    def restore(self) -> None:
        """Repeat the random numbers drawn after the last `save`."""
        torch.set_rng_state(self._host)
        if self._cuda is not None and self._device is not None:
            torch.cuda.set_rng_state(self._device, self._cuda)
