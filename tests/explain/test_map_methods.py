"""Maps against values that are computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnntrain.choices.model.vit_tiny import VisionTransformer
from dnntrain.errors import ConfigError
from dnntrain.explain.attention_rollout import AttentionRecorder, find_rollout, roll_out
from dnntrain.explain.choose_method import choose_method
from dnntrain.explain.class_activation import ClassActivation, FusedActivation
from dnntrain.explain.integrated_gradients import IntegratedGradients
from dnntrain.explain.method import Aim, enlarge_maps
from dnntrain.explain.occlusion import Occlusion, make_occlusion
from dnntrain.nn.shape import ModelShape


def aim_at(*outputs: int) -> Aim:
    return Aim(torch.tensor(outputs), torch.ones(len(outputs)))


def linear(pixels: int = 16, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


class Pooled(nn.Module):
    """One convolution, the mean over places, and a linear layer: Grad-CAM is then the class activation map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(functional.relu(self.conv(images)).mean((2, 3)))
        return outputs


def transformer() -> nn.Module:
    torch.manual_seed(2)
    shape = ModelShape(3, 1, 8, 8)
    return VisionTransformer(shape, 2, 16, 12, 2, 3, 24, 0.0).eval()


def test_integrated_gradients_of_a_linear_model_are_weight_times_input() -> None:
    model, images = linear(), torch.randn(2, 1, 4, 4)
    maps = IntegratedGradients((4, 4)).compute_maps(model, images, aim_at(2, 0))
    expected = model[1].weight[[2, 0]].view(2, 4, 4) * images[:, 0]  # type: ignore[index]
    torch.testing.assert_close(maps, expected.detach())


def test_integrated_gradients_add_up_to_the_change_of_the_score() -> None:
    model, images = transformer(), torch.randn(3, 1, 8, 8)
    aim = aim_at(0, 1, 2)
    maps = IntegratedGradients((8, 8)).compute_maps(model, images, aim)
    with torch.no_grad():
        change = aim.compute_scores(model(images)) - aim.compute_scores(model(torch.zeros_like(images)))
    torch.testing.assert_close(maps.sum((1, 2)), change, atol=1e-4, rtol=1e-3)


def test_occlusion_of_a_linear_model_is_the_score_under_each_pixel() -> None:
    model, images = linear(), torch.randn(2, 1, 4, 4)
    maps = Occlusion(4, 4, 1, 1).compute_maps(model, images, aim_at(1, 1))
    expected = model[1].weight[1].view(1, 4, 4) * images[:, 0]  # type: ignore[index]
    torch.testing.assert_close(maps, expected.detach(), atol=1e-6, rtol=1e-5)


def test_every_pixel_is_covered_by_a_window() -> None:
    for height, width in ((8, 8), (28, 28), (7, 31), (224, 160)):
        method = make_occlusion(height, width)
        assert method.make_masks(torch.device("cpu")).any(0).all()
        assert method.calls == method.grid[0] * method.grid[1] + 1


def test_fused_maps_are_the_geometric_mean_of_the_maps_of_layers_from_coarse_to_fine() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
    )
    images, aim = torch.randn(2, 1, 8, 8), aim_at(0, 2)
    method = choose_method("fused_layercam", model, images[:1], True, None)
    assert isinstance(method, FusedActivation)
    assert method.layers == ("5", "1")
    assert method.grid == (8, 8)
    parts = [
        ClassActivation(name, grid).compute_maps(model, images, aim) for name, grid in (("5", (4, 4)), ("1", (8, 8)))
    ]
    coarse, fine = (part / part.amax((1, 2), keepdim=True) for part in parts)
    torch.testing.assert_close(method.compute_maps(model, images, aim), (coarse * fine).sqrt())
    assert float(fine.amin()) < float(fine.amax())


def test_grad_cam_before_a_mean_is_the_class_activation_map() -> None:
    model, images = Pooled(), torch.randn(2, 1, 6, 6)
    maps = ClassActivation("conv", (6, 6), "gradcam").compute_maps(model, images, aim_at(0, 2))
    with torch.no_grad():
        activations = model.conv(images)
        # The gradient of the mean of relu(A) at a place is head weight / 36 if A > 0.
        weights = (
            model.head.weight[[0, 2]][:, :, None, None] * (activations > 0).float().mean((2, 3), keepdim=True) / 36
        )
    torch.testing.assert_close(maps, (weights * activations).sum(1).relu())


def test_layer_cam_weighs_each_place_by_its_own_positive_gradient() -> None:
    activations, gradients = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    maps = ClassActivation("", (3, 3), "layercam").combine(activations, gradients)
    expected = (gradients.clamp(min=0) * activations).sum(1).clamp(min=0)
    torch.testing.assert_close(maps, expected)


def test_a_rollout_of_two_blocks_is_the_product_of_two_matrices() -> None:
    attentions = [torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)]
    gradients = [torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)]
    first, second = (
        torch.eye(3) + (attention * gradient).clamp(min=0).mean(1)
        for attention, gradient in zip(attentions, gradients, strict=True)
    )
    torch.testing.assert_close(roll_out(list(zip(attentions, gradients, strict=True))), second @ first)


def test_recording_attention_changes_no_output() -> None:
    model, images = transformer(), torch.randn(2, 1, 8, 8)
    recorder = AttentionRecorder()
    with torch.no_grad():
        expected = model(images)
        with recorder:
            outputs = model(images)
    torch.testing.assert_close(outputs, expected)
    assert [attention.shape for attention in recorder.attentions] == [(2, 3, 17, 17)] * 2


def test_the_rollout_of_a_transformer_has_a_place_for_each_patch() -> None:
    model, images = transformer(), torch.randn(2, 1, 8, 8)
    method = find_rollout(model, images[:1])
    assert method is not None
    assert (method.grid, method.prefix) == ((4, 4), 1)
    assert method.compute_maps(model, images, aim_at(0, 1)).shape == (2, 8, 8)


def test_a_token_that_is_not_looked_at_has_no_relevance() -> None:
    attention = torch.zeros(1, 1, 3, 3)
    attention[..., 0, 1] = 1.0
    relevance = roll_out([(attention, torch.ones_like(attention))])
    assert relevance[0, 0].tolist() == [1.0, 1.0, 0.0]


def test_the_method_follows_the_network() -> None:
    images = torch.randn(1, 1, 8, 8)
    assert choose_method("auto", transformer(), images, True, None).name == "rollout"
    assert choose_method("auto", Pooled(), images, True, None).name == "layercam"
    assert choose_method("auto", linear(64), images, True, None).name == "occlusion"
    assert choose_method("auto", Pooled(), images, False, None).name == "occlusion"


@pytest.mark.parametrize(
    ("name", "layer", "near"),
    [("rollout", None, "layercam"), ("layercam", "head", "--layer conv")],
)
def test_a_method_that_does_not_fit_names_the_nearest(name: str, layer: str | None, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_method(name, Pooled(), torch.randn(1, 1, 8, 8), True, layer)
    assert near in f"{caught.value.message} {caught.value.hint}"


def test_a_map_of_places_is_enlarged_between_their_centers() -> None:
    enlarged = enlarge_maps(torch.tensor([[[0.0, 1.0]]]), 1, 4)
    assert enlarged.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


@pytest.mark.slow
def test_a_transformer_of_timm_has_a_rollout() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()
    images = torch.randn(1, 3, 32, 32)
    method = choose_method("auto", model, images, True, None)
    assert (method.name, method.grid) == ("rollout", (4, 4))
    assert method.compute_maps(model, images, aim_at(1)).shape == (1, 32, 32)
