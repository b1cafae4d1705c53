"""Frozen batch normalisation: nothing moves but what may."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnntrain.choices.norm.frozen import Frozen


@pytest.mark.parametrize("affine", [False, True])
def test_training_uses_and_keeps_the_running_statistics(affine: bool) -> None:
    norm = nn.BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([1.0, -1.0]))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))  # type: ignore[union-attr]
    model = Frozen(affine=affine).convert(nn.Sequential(norm)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(3, 2, 4, 4)
    shape = (1, 2, 1, 1)
    mean, var = torch.tensor([1.0, -1.0]).view(shape), torch.tensor([4.0, 0.25]).view(shape)
    torch.testing.assert_close(model(images), (images - mean) / (var + 1e-5).sqrt())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad is affine for parameter in model.parameters())
