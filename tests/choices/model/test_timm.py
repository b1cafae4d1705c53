"""Models of timm, adapted to the data."""

from __future__ import annotations

import sys

import pytest
import torch

from dnntrain.choices.model.timm import Timm
from dnntrain.choices.model.vit_tiny import VitTiny
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape, find_head_modules

timm = pytest.importorskip("timm")

GREY = ModelShape(10, 1, 32, 32)


@pytest.mark.parametrize(
    ("arch", "head"), [("resnet10t", "fc"), ("convnext_atto", "head.fc"), ("vit_tiny_patch16_224", "head")]
)
def test_models_take_the_datas_channels_classes_and_size_and_their_head_is_found(arch: str, head: str) -> None:
    model = Timm(name=arch).build(GREY).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert find_head_modules(model) == (head,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Timm(name="convnext_atoo"), "did you mean 'convnext_atto'?"),
        (Timm(name="../../x"), "has no such model"),
        (Timm(name="resnet10t", drop_path=0.1), None),
        (Timm(name="test_byobnet", drop_path=0.1), None),
        (Timm(name="vgg11", drop_path=0.1), "cannot be built: TypeError"),
    ],
)
def test_names_and_knobs_that_do_not_fit_are_refused(choice: Timm, told: str | None) -> None:
    if told is None:
        assert choice.build(GREY) is not None
        return
    with pytest.raises(ConfigError) as caught:
        choice.build(GREY)
    assert told in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'dnntrain\[timm\]'"):
        Timm().build(GREY)


def test_our_vision_transformer_is_timms() -> None:
    ours = VitTiny(depth=3).build(GREY)
    name, arguments = ours.timm_architecture  # type: ignore[misc]
    theirs = timm.create_model(name, num_classes=10, **arguments)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_weights_that_are_not_on_this_machine_need_consent_to_download(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    color = ModelShape(10, 3, 32, 32)
    for use in (
        Timm(name="resnet10t", pretrained=True).check_pretrained_weights,
        Timm(name="resnet10t", pretrained=True).build,
    ):
        with pytest.raises(ConfigError) as caught:
            use(color)
        assert "not on this machine" in str(caught.value)
        assert "model.download=true" in str(caught.value)
    Timm(name="resnet10t", pretrained=True, download=True).check_pretrained_weights(color)
