"""torchvision's segmentation networks give one map of logits, with and without pretrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dnntrain.choices.model._torchvision_maps import create_map_model, list_map_models
from dnntrain.choices.model.torchvision import Torchvision
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape, find_head_modules

MAP = ModelShape(5, 3, 64, 64, is_map=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "heads"),
    [
        ("lraspp_mobilenet_v3_large", ("classifier.low_classifier", "classifier.high_classifier")),
        ("fcn_resnet50", ("classifier.4",)),
    ],
)
def test_a_network_gives_one_map_of_logits(arch: str, heads: tuple[str, ...]) -> None:
    model = Torchvision(name=arch).build(ModelShape(5, 1, 32, 32, is_map=True)).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5, 32, 32)
    assert find_head_modules(model) == heads
    assert not any(name.startswith("aux_classifier") for name, _ in model.named_parameters())


@pytest.mark.slow
def test_pretrained_weights_keep_neither_heads_nor_the_auxiliary_head(tmp_path: Path) -> None:
    import torchvision

    source = torchvision.models.get_model(
        "fcn_resnet50", weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    file = tmp_path / "weights.pth"
    torch.save(source.state_dict(), file)
    model = create_map_model("fcn_resnet50", MAP, file)
    assert torch.equal(model.backbone.conv1.weight, source.backbone.conv1.weight)
    assert torch.equal(model.classifier[0].weight, source.classifier[0].weight)
    assert isinstance(model.classifier[4], nn.Conv2d)
    assert model.classifier[4].out_channels == 5
    assert model.aux_classifier is None


def test_a_name_of_another_kind_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match="no such segmentation model; it has deeplabv3"):
        Torchvision(name="resnet18").build(MAP)
    assert "lraspp_mobilenet_v3_large" in list_map_models()
