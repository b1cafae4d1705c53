"""Whitening: the filters decorrelate real patches, and a frozen layer stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from short_runs import trained
from stand_ins import context
from torch import nn

from dnntrain.choices.data.digits import Digits
from dnntrain.choices.reg.whitening import Whitening, compute_whitening_filters, extend_filters, extract_patches
from dnntrain.errors import ConfigError


def images() -> torch.Tensor:
    source = Digits().build().train
    return torch.stack([source.read(number) for number in range(200)]).float() / 255 - 0.3


def test_filtered_patches_are_uncorrelated_with_variances_near_one() -> None:
    rows = extract_patches(images(), 3, 3)
    filtered = rows @ compute_whitening_filters(rows, 1e-4).T
    moment = filtered.T @ filtered / len(filtered)
    torch.testing.assert_close(moment, torch.diag(moment.diagonal()), atol=1e-3, rtol=0)
    assert moment.diagonal().min() > 0.9
    assert moment.diagonal().max() < 1.01


def test_channels_are_the_filters_their_negatives_and_mixtures() -> None:
    filters = torch.eye(4)
    channels = extend_filters(filters, 11, seed=0)
    assert channels.shape == (11, 4)
    assert torch.equal(channels[:4], -channels[4:8])
    torch.testing.assert_close(channels[8:].norm(dim=1), torch.ones(3))
    assert torch.equal(extend_filters(filters, 3, seed=0), filters.flip(0)[:3])


def test_only_the_first_convolution_is_set_and_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    second = model[2].weight.detach().clone()
    (set_first,) = Whitening().build(context()).weight_inits
    set_first(model, images())
    assert not model[0].weight.requires_grad
    assert not model[0].bias.any()
    assert torch.equal(model[2].weight, second)
    assert model[2].weight.requires_grad


@pytest.mark.slow
def test_weights_from_a_file_do_not_replace_the_filters(tmp_path: Path) -> None:
    trained(tmp_path / "base", "model=small_cnn", "train.duration=1step")
    with pytest.raises(ConfigError, match=r"init_from would overwrite the filters that reg\.whitening computes"):
        trained(tmp_path / "run", "model=small_cnn", "reg=[whitening]", f"init_from={tmp_path / 'base'}")


def test_a_network_without_convolutions_is_refused_at_plan_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reg\.whitening needs a model that begins with a convolution"):
        trained(tmp_path / "run", "model=mlp", "reg=[whitening]")
    assert not (tmp_path / "run").exists()
