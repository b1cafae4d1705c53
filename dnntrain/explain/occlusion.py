"""Make maps by occlusion: cover a window with the mean color, and see how the score falls.

The value of a pixel is the mean fall over all windows that cover it (Zeiler & Fergus, "Visualizing and
understanding convolutional networks", ECCV 2014). It needs outputs only, so it explains any model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnntrain.explain.method import Aim

#: Covered images in one call of the model.
_BATCH = 256


@dataclass(frozen=True)
class Occlusion:
    """Square windows of `side` pixels, `stride` apart; the last of a row ends at the edge."""

    height: int
    width: int
    side: int
    stride: int
    name: str = "occlusion"
    needs_gradients: bool = False

    @property
    def corners(self) -> list[tuple[int, int]]:
        """The upper left corner of each window."""
        return [(top, left) for top in self._list_starts(self.height) for left in self._list_starts(self.width)]

    @property
    def grid(self) -> tuple[int, int]:
        return len(self._list_starts(self.height)), len(self._list_starts(self.width))

    @property
    def calls(self) -> int:
        return len(self.corners) + 1

    def _list_starts(self, length: int) -> list[int]:
        last = max(length - self.side, 0)
        return sorted({*range(0, last + 1, self.stride), last})

    @torch.no_grad()
    def compute_maps(self, model: nn.Module, inputs: Tensor, aim: Aim) -> Tensor:
        masks = self.make_masks(inputs.device)
        maps = [
            self._explain(model, image, aim.select(torch.tensor([row], device=inputs.device)), masks)
            for row, image in enumerate(inputs)
        ]
        return torch.stack(maps) if maps else inputs.new_zeros(0, self.height, self.width)

    def make_masks(self, device: torch.device) -> Tensor:
        """Return bool [windows, height, width], true where a window covers the image."""
        masks = torch.zeros(len(self.corners), self.height, self.width, dtype=torch.bool, device=device)
        for number, (top, left) in enumerate(self.corners):
            masks[number, top : top + self.side, left : left + self.side] = True
        return masks

    def _explain(self, model: nn.Module, image: Tensor, aim: Aim, masks: Tensor) -> Tensor:
        score = aim.compute_scores(model(image[None]))
        covered = torch.cat(
            [
                self._repeat(aim, len(part)).compute_scores(model(image * ~part[:, None]))
                for part in torch.split(masks, _BATCH)
            ]
        )
        falls = (score - covered)[:, None, None] * masks
        return falls.sum(0) / masks.sum(0).clamp_min(1)

    @staticmethod
    def _repeat(aim: Aim, count: int) -> Aim:
        return Aim(aim.outputs.expand(count), aim.signs.expand(count))


def make_occlusion(height: int, width: int) -> Occlusion:
    """Return the method with windows of a seventh of the shorter side, at least 2 pixels, that overlap by half."""
    side = max(2, round(min(height, width) / 7))
    return Occlusion(height, width, side, max(1, side // 2))
