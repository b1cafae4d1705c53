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
from dnntrain.inference.mask_writer import MaskWriter


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
    rows = MaskWriter(tmp_path / "masks", load((4, 5, 6)))(files, outputs)
    names = ["photo.png", "photo-2.png", "c.png"]
    assert [row["mask"] for row in rows] == [str(tmp_path / "masks" / name) for name in names]
    for name, mask in zip(names, outputs.argmax(1), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / name)), mask.numpy())


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--masks .* needs a model that predicts the class of each pixel"):
        MaskWriter(tmp_path / "masks", load((10,)))
    assert not (tmp_path / "masks").exists()
