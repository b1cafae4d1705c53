"""Models of torchvision, adapted to the data; pretrained weights only where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from dnntrain.choices.model.mlp import Mlp
from dnntrain.choices.model.timm import Timm
from dnntrain.choices.model.torchvision import Torchvision, create_torchvision_model, get_weights_file
from dnntrain.errors import ConfigError
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape, find_head_modules

GREY = ModelShape(10, 1, 32, 32)
COLOUR = ModelShape(10, 3, 32, 32)


def refused(choice: Torchvision, shape: ModelShape = COLOUR) -> str:
    with pytest.raises(ConfigError) as caught:
        choice.build(shape)
    return str(caught.value)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("arch", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("vit_b_32", "heads.head"),
        ("squeezenet1_1", "classifier.1"),
        ("densenet121", "classifier"),
        ("swin_t", "head"),
        ("convnext_tiny", "classifier.2"),
        ("efficientnet_b0", "classifier.1"),
    ],
)
def test_models_take_the_datas_channels_and_classes_and_their_head_is_found(arch: str, head: str) -> None:
    model = build_with_zero_weights(lambda: Torchvision(name=arch).build(GREY)).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert find_head_modules(model) == (head,)


@pytest.mark.slow
def test_auxiliary_outputs_are_left_out() -> None:
    model = build_with_zero_weights(lambda: Torchvision(name="googlenet").build(COLOUR))
    assert isinstance(model(torch.zeros(2, 3, 32, 32)), torch.Tensor)


@pytest.mark.slow
def test_first_weights_are_those_of_torchvisions_own_rules() -> None:
    model = Torchvision(name="resnet18").build(COLOUR)
    initialize_weights(model, 0)
    published = torchvision.models.resnet18(num_classes=10)
    # Its convolutions are drawn with the variance of their fan-out, which no layer's own reset does.
    mine, theirs = (dict(net.named_parameters())["layer4.0.conv1.weight"].detach().std() for net in (model, published))
    assert float(mine) == pytest.approx(float(theirs), rel=0.02)


def test_a_misspelled_name_gets_the_nearest() -> None:
    assert "did you mean 'resnet50'?" in refused(Torchvision(name="resnet5"))
    assert "did you mean" in refused(Torchvision(name="ResNet_50"))


def test_a_detector_is_no_classification_model() -> None:
    assert "no such classification model" in refused(Torchvision(name="fasterrcnn_resnet50_fpn"))


def test_images_that_are_too_small_are_refused_with_their_size() -> None:
    assert "alexnet does not take images of 3x32x32" in refused(Torchvision(name="alexnet"))


def test_a_misspelled_name_of_weights_gets_the_nearest() -> None:
    message = refused(Torchvision(name="resnet18", weights="IMAGENET1K_V3"))
    assert "did you mean 'IMAGENET1K_V1'?" in message


def test_weights_that_are_not_on_the_machine_are_not_fetched_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = refused(Torchvision(name="resnet18", weights="DEFAULT"))
    assert "resnet18-f37072fd.pth are not on this machine" in message
    assert "model.download=true" in message


def test_a_model_whose_weights_come_from_a_checkpoint_is_built_without_those_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    choice = Torchvision(name="mobilenet_v3_small", weights="DEFAULT", download=True).without_pretrained_weights()
    names = build_with_zero_weights(lambda: Torchvision(name="mobilenet_v3_small").build(COLOUR)).state_dict().keys()
    assert build_with_zero_weights(lambda: choice.build(COLOUR)).state_dict().keys() == names
    assert Timm(name="resnet10t", pretrained=True).without_pretrained_weights() == Timm(name="resnet10t")
    assert Mlp(hidden=(8,)).without_pretrained_weights() == Mlp(hidden=(8,))


def test_weights_for_colours_are_refused_for_grey_images() -> None:
    assert "is for images of 3 channels; these have 1" in refused(Torchvision(name="resnet18", weights="DEFAULT"), GREY)


def test_pretrained_weights_fill_all_but_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "home/hub/checkpoints/mobilenet_v3_small-00000000.pth"
    path.parent.mkdir(parents=True)
    published = torchvision.models.mobilenet_v3_small()
    torch.save(published.state_dict(), path)
    found = get_weights_file("https://example.org/models/mobilenet_v3_small-00000000.pth", download=False)
    model = create_torchvision_model("mobilenet_v3_small", COLOUR, found)
    assert torch.equal(model.features[0][0].weight, published.features[0][0].weight)  # type: ignore[index]
    assert model.classifier[3].weight.shape == (10, 1024)  # type: ignore[index]
