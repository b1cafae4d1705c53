"""Write explain.html: one file of at most 3 MB in the look of report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.explain.explanation import Explanation
from dnntrain.explain.render_calibration import render_calibration
from dnntrain.explain.render_comparison import (
    render_comparison,
    render_embedding,
    render_importance,
    render_pointing,
)
from dnntrain.explain.render_directions import render_directions
from dnntrain.explain.render_labels import render_labels, render_neighbors
from dnntrain.explain.render_layers import render_layers
from dnntrain.explain.render_maps import render_checks, render_maps
from dnntrain.explain.render_tokens import render_texts
from dnntrain.report.html import escape_text, isolate_text
from dnntrain.report.page import render_page
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.files import write_bytes
from dnntrain.utils.units import format_seconds

MAX_BYTES = 3_000_000


def write_page(path: Path, explanation: Explanation) -> None:
    """Write the page. Raises ConfigError if the file cannot be written."""
    page = render_explanation(explanation)
    try:
        write_bytes(path, page)
    except OSError as error:
        raise explain_lack_of_resources(error) or ConfigError(
            f"{path} cannot be written: {error.strerror or error}", "name another file with --path FILE.html"
        ) from None


def render_explanation(explanation: Explanation) -> bytes:
    """Return the page; if it is too long, with fewer maps."""
    shown = len(explanation.maps.examples) if explanation.maps else 0
    page = _render(explanation, shown)
    while len(page) > MAX_BYTES and shown > 1:
        shown = shown * 3 // 4
        page = _render(explanation, shown)
    return page


def _render(explanation: Explanation, shown: int) -> bytes:
    maps, calibration = explanation.maps, explanation.calibration
    parts = [_render_heading(explanation), _render_cards(explanation)]
    if maps is not None:
        render = render_texts if explanation.subject.is_text else render_maps
        parts += [render(explanation, maps, shown), render_checks(maps)]
    if explanation.pointing is not None:
        parts.append(render_pointing(explanation.pointing))
    if explanation.comparison is not None:
        parts.append(render_comparison(explanation.comparison))
    parts.append(render_importance(explanation))
    if calibration is not None:
        parts.append(render_calibration(calibration))
    parts += [render_labels(explanation), render_layers(explanation)]
    if explanation.directions is not None:
        parts.append(render_directions(explanation.directions))
    if explanation.embedding is not None:
        parts.append(render_embedding(explanation, explanation.embedding, render_neighbors(explanation)))
    parts.append(_render_footer(explanation))
    return render_page(f"{explanation.name} explained", parts)


def _render_heading(explanation: Explanation) -> str:
    faults = explanation.maps.faults if explanation.maps else []
    reason = "".join(
        f'<p class="reason bad">The maps are not to be trusted: {escape_text(text, 600)}</p>' for text in faults
    )
    if faults:
        is_text = explanation.subject.is_text
        others = "gradient or integrated_gradients" if is_text else "occlusion, integrated_gradients or layercam"
        reason += f'<p class="reason">Another --method may pass: {others}.</p>'
    notes = "".join(f'<p class="reason">{escape_text(note, 600)}</p>' for note in explanation.notes)
    about = " · ".join(isolate_text(fact, 120) for fact in explanation.facts)
    return (
        f'<header><p class="kicker">dnntrain explain</p><div class="title"><h1>{isolate_text(explanation.name)}</h1></div>'
        f'<p class="about">{about}</p>{reason}{notes}</header>'
    )


def _render_cards(explanation: Explanation) -> str:
    return render_cards(explanation.list_cards())


def render_cards(entries: Sequence[tuple[str, str, str]]) -> str:
    """Return the main figures: (label, value, note) of each."""
    body = "".join(
        f'<div class="card{" main" if number == 0 else ""}"><dt>{escape_text(label)}</dt>'
        f"<dd>{escape_text(value)}{f'<small>{escape_text(note)}</small>' if note else ''}</dd></div>"
        for number, (label, value, note) in enumerate(entries)
    )
    return f'<dl class="cards">{body}</dl>' if body else ""


def _render_footer(explanation: Explanation) -> str:
    return (
        f"<footer><p>{isolate_text(explanation.path, 300)} · {format_seconds(explanation.seconds)} · "
        "the numbers are in explain.json</p></footer>"
    )
