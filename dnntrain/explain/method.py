"""Define a method that makes maps, and the score that a map explains.

A map [height, width] says how much each place of an image speaks for the score: the output of one
class, or of one target.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Aim(NamedTuple):
    """The outputs that are explained.

    outputs  int64 [n], the entry of each example's output
    signs    float [n], 1 or -1: whether a larger or a smaller output is explained
    """

    outputs: Tensor
    signs: Tensor

    def select(self, rows: Tensor) -> Aim:
        """Return the aim of the examples `rows`, numbers [m]."""
        return Aim(self.outputs[rows], self.signs[rows])

    def compute_scores(self, outputs: Tensor) -> Tensor:
        """Return the explained number [n] of the outputs [n, k]."""
        return self.signs * outputs.float().gather(1, self.outputs[:, None])[:, 0]


class MapMethod(Protocol):
    """A way to make maps.

    name            as the option --method spells it
    needs_gradients whether the network must be differentiable; an ONNX file is not
    grid            places of a map, before it is enlarged to the size of the image
    calls           calls of the model for one image; a backward pass counts as two
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_gradients(self) -> bool: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def calls(self) -> int: ...

    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        """Return the maps, float [n, height, width], of inputs [n, channels, height, width]."""
        ...


def select_answers(outputs: Tensor) -> Tensor:
    """Return the outputs [n, k]; of outputs for each token [n, length, k] those of the last one."""
    return outputs[:, -1] if outputs.ndim == 3 else outputs


@contextmanager
def require_gradients(inputs: Tensor) -> Iterator[Tensor]:
    """Yield a copy of `inputs` from which gradients flow."""
    with torch.enable_grad():
        yield inputs.detach().clone().requires_grad_()


def enlarge_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Enlarge maps [n, rows, columns] to [n, height, width], bilinearly between the centers of places."""
    if maps.shape[1:] == (height, width):
        return maps
    enlarged: Tensor = nn.functional.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)
    return enlarged[:, 0]
