"""An image transform from the user's file: each image has a generator of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_code import write_mine

from dnntrain.choices.augment.custom import CustomAugment
from dnntrain.config.fields import Arguments
from dnntrain.errors import ConfigError, PluginError
from dnntrain.utils.rng import Key

NO_CONTEXT: Any = None
IMAGES = torch.arange(6 * 3 * 4 * 4, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(6, 3, 4, 4)


def test_an_image_changes_alike_in_any_batch(tmp_path: Path) -> None:
    choice = CustomAugment(file=str(write_mine(tmp_path)), name="posterize", args=Arguments({"bits": 2}))
    (transform,) = choice.build(NO_CONTEXT).image_transforms
    number, key = np.arange(6), Key(3, "", 1)
    together = transform(IMAGES, number, key)
    apart = torch.cat([transform(IMAGES[row : row + 1], number[row : row + 1], key) for row in range(6)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, IMAGES)
    assert not torch.equal(together, transform(IMAGES, number, key.with_epoch(2)))


def test_a_result_of_another_form_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def wrong(image, generator):\n    return image.float()\n")
    (transform,) = CustomAugment(file=str(file)).build(NO_CONTEXT).image_transforms
    with pytest.raises(PluginError, match=r"must return uint8 \[3, 4, 4\], not torch.float32"):
        transform(IMAGES, np.arange(6), Key(0))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\+augment=\[custom\] needs augment.custom.file"):
        CustomAugment().build(NO_CONTEXT)
