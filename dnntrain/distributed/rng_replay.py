"""The random numbers of a forward pass, drawn once more."""

from __future__ import annotations

import torch


class RngReplay:
    """Keeps where the generators of the host and of `device` stood before a pass, for a second pass with the same dropout."""

    def __init__(self, device: str | torch.device) -> None:
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None
        self.save()

    def begin_pass(self, replay: bool) -> None:
        """Before a pass: repeats the numbers of the one before, or marks where this one begins."""
        if replay:
            self.restore()
        else:
            self.save()

    def save(self) -> None:
        """From here on is what `again` repeats."""
        self._host = torch.get_rng_state()
        # The layers of a model on a GPU draw from its own generator.
        self._device = torch.cuda.get_rng_state(self._cuda) if self._cuda is not None else None

    def restore(self) -> None:
        """The next numbers are those that were drawn after `keep`."""
        torch.set_rng_state(self._host)
        if self._cuda is not None and self._device is not None:
            torch.cuda.set_rng_state(self._device, self._cuda)
