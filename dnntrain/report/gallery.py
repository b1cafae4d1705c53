"""The pictures that a model got wrong."""

from __future__ import annotations

from dnntrain.report.confusion import get_class_names, read_confusion, render_mistakes
from dnntrain.report.estimates import render_estimates
from dnntrain.report.figures_table import render_figures
from dnntrain.report.format import format_percent
from dnntrain.report.generated_texts import render_progress, render_texts
from dnntrain.report.html import escape_text, isolate_text, render_section
from dnntrain.report.label_curves import render_label_curves
from dnntrain.report.load_run import RunData
from dnntrain.report.pictures import MAX_TOTAL_PICTURE_BYTES, validate_picture
from dnntrain.report.pixels import render_overlays, render_pixels
from dnntrain.report.untrusted_files import parse_number

_MAX_PICTURES = 48


def render_errors(run: RunData) -> str:
    """Return the confusion matrix and its derived panels, or estimates beside their targets."""
    if texts := render_progress(run.texts) + render_texts(run.evaluation):
        return render_section("Texts", texts)
    if estimates := render_estimates(run.evaluation):
        return render_section("Errors on the test split", estimates)
    if pixels := render_pixels(run.evaluation):
        return render_section("Errors on the test split", pixels)
    matrix_and_names = read_confusion(run.evaluation)
    mistakes = render_mistakes(*matrix_and_names) if matrix_and_names else ""
    return render_section(
        "Mistakes on the test split", mistakes + render_label_curves(run.evaluation) + render_figures(run.evaluation)
    )


def render_gallery(run: RunData) -> str:
    """Return the most wrong examples as pictures."""
    if overlays := render_overlays(run.evaluation):
        return render_section("Most wrong", overlays)
    wrong = run.evaluation.get("wrong")
    if not isinstance(wrong, list):
        return ""
    confusion = run.evaluation.get("confusion")
    names = get_class_names(run.evaluation, len(confusion) if isinstance(confusion, list) else 0)
    figures, bytes_left = [], MAX_TOTAL_PICTURE_BYTES
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


def _get_class_name(value: object, names: list[str]) -> str:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)[:40]
