"""Show the errors of classes of pixels: figures of each class, and masks beside their images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.format import format_percent
from dnntrain.report.html import escape_text, isolate_text, render_table
from dnntrain.report.pictures import MAX_TOTAL_PICTURE_BYTES, validate_picture
from dnntrain.report.untrusted_files import parse_number
from dnntrain.utils.mask_picture import make_palette

_FIGURES = ("iou", "precision", "recall", "share")
_HEAD = ("class", "IoU", "precision", "recall", "of all pixels")
_MAX_CLASSES = 254
_MAX_EXAMPLES = 24


def render_pixels(evaluation: Mapping[str, Any]) -> str:
    """Return the table of IoU, precision, recall and share of each class; empty if the file has none."""
    figures, names = evaluation.get("pixels_by_class"), evaluation.get("class_names")
    if not isinstance(figures, dict) or not isinstance(names, list):
        return ""
    columns = [figures.get(name) for name in _FIGURES]
    if not all(isinstance(column, list) and len(column) == len(names) for column in columns):
        return ""
    palette = make_palette()
    rows = [
        [
            _render_swatch(palette[3 * number : 3 * number + 3]) + isolate_text(name, 60),
            *(format_percent(parse_number(column[number])) for column in columns if isinstance(column, list)),
        ]
        for number, name in enumerate(names[:_MAX_CLASSES])
    ]
    return render_table(_HEAD, rows, "Pixels of each class")


def render_overlays(evaluation: Mapping[str, Any]) -> str:
    """Return image, mask and predicted mask of examples; empty if the file has none."""
    overlays = evaluation.get("overlays")
    figures, bytes_left = [], MAX_TOTAL_PICTURE_BYTES
    for sample in overlays[:_MAX_EXAMPLES] if isinstance(overlays, list) else []:
        if not isinstance(sample, dict):
            continue
        pictures = [validate_picture(sample.get(name)) for name in ("image", "truth", "predicted")]
        data = [picture for picture in pictures if picture is not None]
        size = sum(map(len, data))
        if len(data) < len(pictures) or size > bytes_left:
            continue
        bytes_left -= size
        name = sample.get("name", "")
        images = "".join(
            f'<img alt="{escape_text(f"{name}: {kind}")}" src="data:image/png;base64,{picture}">'
            for kind, picture in zip(("image", "mask", "predicted mask"), data, strict=True)
        )
        share = format_percent(parse_number(sample.get("pixel_accuracy")))
        figures.append(
            f"<figure>{images}<figcaption>{share} of the pixels are right<small>{isolate_text(name, 60)}</small>"
            "</figcaption></figure>"
        )
    if not figures:
        return ""
    note = "Of the test split: image, mask, predicted mask; the smallest share of right pixels first."
    return f'<p class="note">{note}</p><div class="gallery">{"".join(figures)}</div>'


def _render_swatch(color: list[int]) -> str:
    red, green, blue = color
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span> '
