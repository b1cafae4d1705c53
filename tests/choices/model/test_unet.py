"""model=unet: a map of logits at the size of the image."""

from __future__ import annotations

import pytest
import torch

from dnntrain.choices.model.unet import Unet
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape, find_head_parameters


@pytest.mark.parametrize(("height", "width", "depth"), [(16, 24, 3), (8, 8, 2), (6, 10, 1)])
def test_logits_have_the_size_of_the_image(height: int, width: int, depth: int) -> None:
    model = Unet(width=4, depth=depth).build(ModelShape(5, 3, height, width, is_map=True))
    assert model(torch.rand(2, 3, height, width)).shape == (2, 5, height, width)
    assert find_head_parameters(model) == ("head.weight", "head.bias")
    assert [module.conv2.out_channels for module in model.down] == [4 * 2**level for level in range(depth)]


def test_sides_that_cannot_be_halved_are_refused_with_the_nearest_depth() -> None:
    with pytest.raises(ConfigError, match="divisible by 8; these have 20x64") as caught:
        Unet().build(ModelShape(5, 3, 20, 64, is_map=True))
    assert "model.depth=2" in caught.value.hint
    assert "24x64" in caught.value.hint or "16x64" in caught.value.hint
