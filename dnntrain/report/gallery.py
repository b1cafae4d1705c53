"""The pictures that a model got wrong."""

from __future__ import annotations

import base64
import binascii
import struct

from dnntrain.report.confusion import get_class_names, read_confusion, render_mistakes
from dnntrain.report.estimates import render_estimates
from dnntrain.report.figures_table import render_figures
from dnntrain.report.format import format_percent
from dnntrain.report.html import escape_text, isolate_text, render_section
from dnntrain.report.load_run import RunData, parse_number

_MAX_PICTURES = 48


_MAX_PICTURE_BYTES = 24 * 2**10


_MAX_TOTAL_PICTURE_BYTES = 300 * 2**10


def render_errors(run: RunData) -> str:
    """Return the confusion matrix and its derived panels, or estimates beside their targets."""
    if estimates := render_estimates(run.evaluation):
        return render_section("Errors on the test split", estimates)
    matrix_and_names = read_confusion(run.evaluation)
    mistakes = render_mistakes(*matrix_and_names) if matrix_and_names else ""
    return render_section("Mistakes on the test split", mistakes + render_figures(run.evaluation))


def render_gallery(run: RunData) -> str:
    """Return the most wrong examples as pictures."""
    wrong = run.evaluation.get("wrong")
    if not isinstance(wrong, list):
        return ""
    confusion = run.evaluation.get("confusion")
    names = get_class_names(run.evaluation, len(confusion) if isinstance(confusion, list) else 0)
    figures, bytes_left = [], _MAX_TOTAL_PICTURE_BYTES
    for sample in wrong[:_MAX_PICTURES]:
        if (
            not isinstance(sample, dict)
            or (data := validate_picture(sample.get("image"))) is None
            or len(data) > bytes_left
        ):
            continue
        bytes_left -= len(data)
        label, predicted = _get_class_name(sample.get("label"), names), _get_class_name(sample.get("predicted"), names)
        probability, name = parse_number(sample.get("probability")), sample.get("name", "")
        alt = f"{name}: the true class is {label}, predicted {predicted}"
        figures.append(
            f'<figure><img alt="{escape_text(alt)}" src="data:image/png;base64,{data}"><figcaption>'
            f"<b>{isolate_text(label, 40)}</b> → <s>{isolate_text(predicted, 40)}</s>"
            f"<small>{format_percent(probability)} "
            f"sure</small><small>{isolate_text(name, 60)}</small></figcaption></figure>"
        )
    body = (
        '<p class="note" style="margin:0 0 12px">Of the test split: true class → predicted class, the surest first.</p>'
    )
    return render_section("Most wrong", f'{body}<div class="gallery">{"".join(figures)}</div>') if figures else ""


def validate_picture(data: object) -> str | None:
    """Return `data` if it is a small PNG in base64, else None."""
    if not isinstance(data, str) or len(data) > _MAX_PICTURE_BYTES:
        return None
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    if raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR" or len(raw) < 33:
        return None
    width, height = struct.unpack(">II", raw[16:24])
    return base64.b64encode(raw).decode("ascii") if 0 < width <= 256 and 0 < height <= 256 else None


def _get_class_name(value: object, names: list[str]) -> str:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)[:40]
