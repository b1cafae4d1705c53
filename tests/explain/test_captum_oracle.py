"""Maps against captum 0.9."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnntrain.explain.class_activation import ClassActivation
from dnntrain.explain.integrated_gradients import IntegratedGradients
from dnntrain.explain.method import Aim
from dnntrain.explain.occlusion import Occlusion

attr: Any = pytest.importorskip("captum.attr")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.sigmoid(self.second(functional.gelu(self.first(images))))
        outputs: Tensor = self.head(features.amax((2, 3)) + features.mean((2, 3)))
        return outputs


MODEL = Small().eval()
IMAGES = torch.randn(3, 2, 10, 10, generator=torch.Generator().manual_seed(4))
TARGETS = torch.tensor([0, 3, 1])
AIM = Aim(TARGETS, torch.ones(3))


def test_integrated_gradients_are_captums() -> None:
    mine = IntegratedGradients((10, 10)).compute_attributions(MODEL, IMAGES, AIM)
    other = attr.IntegratedGradients(MODEL).attribute(IMAGES, target=TARGETS, n_steps=50, method="gausslegendre")
    torch.testing.assert_close(mine, other.float(), atol=1e-5, rtol=1e-5)


def test_occlusion_is_captums() -> None:
    mine = Occlusion(10, 10, 4, 2).compute_maps(MODEL, IMAGES, AIM)
    other = attr.Occlusion(MODEL).attribute(IMAGES, (2, 4, 4), strides=(2, 2, 2), target=TARGETS)
    torch.testing.assert_close(mine, other[:, 0], atol=1e-5, rtol=1e-5)


def test_grad_cam_is_captums() -> None:
    method = ClassActivation("second", (6, 6), "gradcam")
    other = attr.LayerGradCam(MODEL, MODEL.second).attribute(IMAGES, target=TARGETS, relu_attributions=True)
    other = attr.LayerAttribution.interpolate(other, (10, 10), interpolate_mode="bilinear")[:, 0]
    torch.testing.assert_close(method.compute_maps(MODEL, IMAGES, AIM), other.detach(), atol=1e-5, rtol=1e-5)


def test_layer_cam_is_made_of_captums_gradients() -> None:
    method = ClassActivation("second", (6, 6))
    product = attr.LayerGradientXActivation(MODEL, MODEL.second)
    activations = attr.LayerActivation(MODEL, MODEL.second).attribute(IMAGES).detach()
    gradients = product.attribute(IMAGES, target=TARGETS).detach() / activations
    expected = method.combine(activations, gradients)
    maps = ClassActivation("second", (6, 6)).compute_maps(MODEL, IMAGES, AIM)
    other = attr.LayerAttribution.interpolate(expected[:, None], (10, 10), interpolate_mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, other, atol=1e-5, rtol=1e-4)
