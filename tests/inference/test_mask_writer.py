"""`predict --masks`: a PNG for each image, with the class of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dnntrain.choices.task.segmentation import Segmentation
from dnntrain.errors import ConfigError
from dnntrain.inference.mask_writer import MaskWriter, check_predicts_masks, choose_names


@dataclass(frozen=True)
class Loaded:
    """The parts of a loaded model that masks need."""

    spec: Any
    config: Any


def load(shape: tuple[int, ...]) -> Any:
    return Loaded(SimpleNamespace(output=SimpleNamespace(shape=shape)), SimpleNamespace(task=Segmentation()))


def test_masks_have_the_names_of_the_images(tmp_path: Path) -> None:
    outputs = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    files = [Path("a/photo.jpg"), Path("b/photo.jpg"), Path("c.png")]
    rows = MaskWriter(tmp_path / "masks", load((4, 5, 6)), files)(files, outputs)
    names = ["photo.png", "photo-2.png", "c.png"]
    assert [row["mask"] for row in rows] == [str(tmp_path / "masks" / name) for name in names]
    for name, mask in zip(names, outputs.argmax(1), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / name)), mask.numpy())


def test_no_two_masks_have_the_same_name() -> None:
    assert choose_names(["photo-2", "photo", "photo"]) == ["photo-2.png", "photo.png", "photo-3.png"]
    assert choose_names(["a", "a", "a-2", "a-2"]) == ["a.png", "a-3.png", "a-2.png", "a-2-2.png"]


def test_masks_of_an_earlier_prediction_are_replaced(tmp_path: Path) -> None:
    outputs = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    for values in (outputs, -outputs):
        MaskWriter(tmp_path / "masks", load((4, 5, 6)), [Path("a.jpg")])([Path("a.jpg")], values)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / "a.png")), (-outputs).argmax(1)[0].numpy())


@pytest.mark.parametrize(("image", "reason"), [("a.png", "an image that is predicted"), ("a.jpg", "is not a mask")])
def test_images_and_masks_of_the_user_are_not_replaced(image: str, reason: str, tmp_path: Path) -> None:
    Image.new("L", (6, 5)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ConfigError, match=reason):
        MaskWriter(tmp_path, load((4, 5, 6)), [tmp_path / "b.jpg", tmp_path / image])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", before)]


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--masks .* needs a model that predicts the class of each pixel"):
        check_predicts_masks(tmp_path / "masks", load((10,)))
    assert not (tmp_path / "masks").exists()
