"""The report of a segmentation: figures of each class, and masks beside their images."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnntrain.report.pixels import render_overlays, render_pixels
from dnntrain.utils.mask_picture import encode_mask, encode_mask_base64, make_mask_picture, make_palette

PNG = encode_mask_base64(np.eye(4, dtype=np.uint8))
EVALUATION: dict[str, Any] = {
    "class_names": ["sky", "<road>"],
    "pixels_by_class": {"iou": [0.5, None], "precision": [0.75, None], "recall": [0.6, 0.0], "share": [1.0, 0.0]},
    "overlays": [{"name": "a<b", "image": PNG, "truth": PNG, "predicted": PNG, "pixel_accuracy": 0.25}],
}


def test_each_class_has_a_row_with_its_color() -> None:
    table = render_pixels(EVALUATION)
    assert table.count("<tr>") == 3
    assert "50" in table
    assert "&lt;road&gt;" in table
    assert "rgb(128,0,0)" in table
    assert make_palette()[3:6] == [128, 0, 0]


def test_image_mask_and_prediction_are_beside_each_other() -> None:
    figures = render_overlays(EVALUATION)
    assert figures.count("<img") == 3
    assert "a&lt;b" in figures
    assert "a<b" not in figures


def test_damaged_files_show_nothing() -> None:
    for evaluation in (
        {},
        {**EVALUATION, "pixels_by_class": {"iou": [1.0]}, "overlays": None},
        {
            **EVALUATION,
            "class_names": ["sky"],
            "overlays": [{"image": PNG}, 3, {"image": PNG, "truth": "x", "predicted": PNG}],
        },
    ):
        assert render_pixels(evaluation) == ""
        assert render_overlays(evaluation) == ""


def test_a_mask_is_a_picture_whose_values_are_the_classes() -> None:
    from io import BytesIO

    from PIL import Image

    mask = np.arange(12).reshape(3, 4)
    assert np.array_equal(np.asarray(make_mask_picture(mask)), mask)
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_mask(mask)))), mask)
