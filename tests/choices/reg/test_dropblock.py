"""DropBlock: squares of the given side vanish while training, in the layers that are named."""

from __future__ import annotations

import pytest
import torch
from stand_ins import context
from torch import nn

from dnntrain.choices.reg.dropblock import Dropblock
from dnntrain.errors import ConfigError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))


def applied(model: nn.Module, knobs: Dropblock) -> nn.Module:
    (transform,) = knobs.build(context()).model_transforms
    return transform.apply(model)


def test_whole_squares_are_dropped_at_about_the_rate_and_only_while_training() -> None:
    torch.manual_seed(0)
    model = applied(
        nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 1)), Dropblock(probability=0.1, block_size=3, modules="0")
    )
    maps = model[0](torch.ones(200, 4, 16, 16))
    gone = maps == 0
    assert 0.07 < float(gone.float().mean()) < 0.13
    torch.testing.assert_close(maps.mean(), torch.tensor(1.0))
    # Each dropped pixel lies in a dropped square: an opening with a square of the side changes nothing.
    eroded = -nn.functional.max_pool2d(-gone.float(), 3, 1)
    opened = nn.functional.max_pool2d(nn.functional.pad(eroded, (2, 2, 2, 2)), 3, 1)
    assert torch.equal(opened.bool(), gone)
    assert torch.equal(model.eval()[0](torch.ones(2, 4, 16, 16)), torch.ones(2, 4, 16, 16))


def test_by_default_the_convolutions_of_the_second_half_drop_and_names_stay() -> None:
    model = applied(network(), Dropblock(probability=0.3))
    assert list(model.state_dict()) == list(network().state_dict())
    images = torch.randn(8, 1, 8, 8)
    assert torch.equal(model[0](images), network()[0](images))
    assert (model(images) == 0).any()
    assert torch.equal(model.eval()(images), network().eval()(images))


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_small_maps_and_no_examples_are_no_error(size: int) -> None:
    model = applied(network(), Dropblock())
    assert model(torch.randn(3, 1, size, size)).shape == (3, 4, size, size)
    assert model(torch.randn(0, 1, size, size)).shape == (0, 4, size, size)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="is even"):
        Dropblock(block_size=4).build(context())
    with pytest.raises(ConfigError, match="matches no module"):
        applied(network(), Dropblock(modules="stages"))
    with pytest.raises(ConfigError, match="no convolution"):
        applied(nn.Sequential(nn.Linear(3, 3)), Dropblock())
