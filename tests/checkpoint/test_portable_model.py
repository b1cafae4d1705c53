"""The portable form of a model: plain names, timm's card, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from stand_ins import class_spec
from torch import nn

from dnntrain.checkpoint.portable_model import get_plain_tensors, save_model
from dnntrain.choices.model.resnet_cifar import ResnetCifar
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.choices.model.vit_tiny import VitTiny
from dnntrain.errors import CheckpointError
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights

SHAPE = ModelShape(3, 1, 8, 8)
NAMES = ("ant", "bee", "cat")


def save(model: nn.Module, directory: Path, **extra: Any) -> dict[str, Any]:
    """Saves `model` and returns its card."""
    save_model(
        model,
        directory,
        architecture="small_cnn",
        spec=class_spec(3, (1, 8, 8), NAMES, (0.5,), (0.25,)),
        model_args={"hidden": 128},
        extra=extra,
    )
    card: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return card


def test_what_is_saved_loads_again(tmp_path: Path) -> None:
    model, other = (ResnetCifar(depth=8).build(SHAPE) for _ in range(2))
    initialize_weights(model, 1)
    save(model.to(memory_format=torch.channels_last), tmp_path)  # type: ignore[call-overload]
    load_weights(other, tmp_path, replace_head=False)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_card_has_timms_layout(tmp_path: Path) -> None:
    card = save(SmallCnn().build(SHAPE), tmp_path, digest="abc")
    assert card["architecture"] == "small_cnn"
    assert card["num_classes"] == 3
    assert card["num_features"] == 128
    assert card["label_names"] == list(NAMES)
    assert card["model_args"] == {"hidden": 128}
    assert card["pretrained_cfg"] == {
        "input_size": [1, 8, 8],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": [0.5],
        "std": [0.25],
        "classifier": "head",
    }
    assert card["dnntrain"]["digest"] == "abc"


def test_tensors_are_contiguous_with_plain_names_and_marked_as_torchs(tmp_path: Path) -> None:
    model = SmallCnn().build(SHAPE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(SmallCnn().build(SHAPE).state_dict())
        assert file.metadata()["format"] == "pt"


def test_a_compiled_model_has_plain_names() -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = nn.Linear(2, 2)

    assert set(get_plain_tensors(Compiled())) == {"weight", "bias"}


def test_shared_tensors_are_written_once_and_views_are_copied(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.register_buffer("view", torch.arange(6.0)[:3])

    model = Shared()
    save(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"first.weight", "first.bias", "second.bias", "view"}
    other = Shared()
    load_weights(other, tmp_path, replace_head=False)
    assert torch.equal(other.second.weight, model.first.weight)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["our vit", "timm's own"])
def test_timm_loads_what_is_its_own(tmp_path: Path, kind: str) -> None:
    timm = pytest.importorskip("timm")
    from dnntrain.choices.model.timm import Timm

    choice: Any = VitTiny(depth=2) if kind == "our vit" else Timm(name="resnet10t")
    model = choice.build(SHAPE if kind == "our vit" else ModelShape(3, 1, 32, 32))
    initialize_weights(model, 0)
    save(model, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    size = 8 if kind == "our vit" else 32
    images = torch.rand(2, 1, size, size)
    torch.testing.assert_close(model.eval()(images), loaded.eval()(images))


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SmallCnn().build(SHAPE)
    save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_state_that_is_no_tensor_is_not_left_out_silently() -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> str:
            return "something"

    with pytest.raises(TypeError, match="_extra_state of the model's state is a str"):
        get_plain_tensors(Extra())


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    model = SmallCnn().build(SHAPE)
    folders = [tmp_path / str(number) for number in range(12)]
    for folder in folders:
        folder.mkdir()
        save(model, folder)
    for name in ("model.safetensors", "config.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_a_safetensors_file_has_the_checksum_of_its_contents(tmp_path: Path) -> None:
    save(SmallCnn().build(SHAPE), tmp_path)
    (tmp_path / "config.json").unlink()
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_weights(SmallCnn().build(SHAPE), file, replace_head=False)
