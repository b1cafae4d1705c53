"""Show labels that are in doubt, and the examples near those that are shown."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dnntrain.explain.embedding import Embedding
from dnntrain.explain.explanation import Explanation
from dnntrain.explain.label_errors import LabelErrors
from dnntrain.explain.pictures import draw_picture, restore_pixels
from dnntrain.explain.subject import Subject, read_inputs
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.protocols import InputKind
from dnntrain.report.format import format_percent
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.utils.units import pluralize

_MAX_PICTURES = 24
_MAX_ROWS = 24
_MAX_NEIGHBORED = 8
_MAX_CHARACTERS = 80


def render_labels(explanation: Explanation) -> str:
    """Return the labels in doubt, with pictures of images; empty if labels were not judged."""
    labels = explanation.labels
    if labels is None:
        return ""
    share = len(labels.candidates) / max(labels.examples, 1)
    text = (
        f"{pluralize(len(labels.candidates), 'label')} of {labels.examples} in doubt ({format_percent(share)}): another "
        f"class is above its own mean confidence. Judged by {labels.source}."
    )
    body = (
        _render_table(labels)
        if explanation.subject.loaded.spec.inputs.kind is not InputKind.IMAGES
        else _render_gallery(explanation, labels)
    )
    return render_section("Labels in doubt", f'<p class="note">{escape_text(text, 400)}</p>{body}')


def _render_gallery(explanation: Explanation, labels: LabelErrors) -> str:
    if not labels.candidates:
        return ""
    rows = labels.rows[:_MAX_PICTURES]
    batch = read_inputs(explanation.subject, labels.outputs.split, labels.outputs.index[rows])
    pixels = restore_pixels(batch.inputs, explanation.subject.loaded.spec.inputs)
    figures = "".join(
        f'<figure><img alt="image" src="data:image/png;base64,{draw_picture(picture)}"><figcaption>'
        f"label <s>{isolate_text(label, 30)}</s><br>likely <b>{isolate_text(likely, 30)}</b>"
        f"<small>margin {margin:.2f}</small><small>{isolate_text(name, 60)}</small></figcaption></figure>"
        for picture, (name, label, likely, margin, _) in zip(pixels, labels.candidates, strict=False)
    )
    return f'<div class="gallery below">{figures}</div>'


def _render_table(labels: LabelErrors) -> str:
    rows = [
        [isolate_text(name, 80), isolate_text(label, 40), isolate_text(likely, 40), f"{margin:.2f}"]
        for name, label, likely, margin, _ in labels.candidates[:_MAX_ROWS]
    ]
    return render_table(("example", "label", "likely", "margin"), rows, "The surest first")


def render_neighbors(explanation: Explanation) -> str:
    """Return the training examples nearest to the first shown examples."""
    embedding, training, maps = explanation.embedding, explanation.training, explanation.maps
    if embedding is None or training is None or maps is None or not embedding.neighbors:
        return ""
    if explanation.subject.is_text:
        return _render_near_texts(explanation, embedding, training)
    spec, subject = explanation.subject.loaded.spec, explanation.subject
    source, count = training.parts[0][0], min(_MAX_NEIGHBORED, len(embedding.neighbors))
    shown = restore_pixels(maps.shown.inputs[:count], spec.inputs)
    rows = []
    for row in range(count):
        numbers = embedding.neighbors[row]
        batch = read_inputs(subject, training, np.array(numbers, dtype=np.int64))
        pictures = restore_pixels(batch.inputs, spec.inputs)
        names = [_name_target(explanation, target) for target in batch.targets]
        figures = "".join(
            f'<figure><img alt="neighbor" src="data:image/png;base64,{draw_picture(picture)}">'
            f"<figcaption>{isolate_text(name, 30)}<small>{isolate_text(source.describe(number), 40)}</small></figcaption>"
            "</figure>"
            for picture, name, number in zip(pictures, names, numbers, strict=True)
        )
        mine = (
            f'<figure class="self"><img alt="image" src="data:image/png;base64,{draw_picture(shown[row])}"><figcaption>'
            f"<b>{isolate_text(explanation.describe_answer(row)['explained'], 30)}</b>"
            f"<small>{isolate_text(maps.examples[row].name, 40)}</small></figcaption></figure>"
        )
        rows.append(f'<div class="gallery near">{mine}{figures}</div>')
    return "".join(rows)


def _render_near_texts(explanation: Explanation, embedding: Embedding, training: DataSplit) -> str:
    """Return a table of the shown texts, each with its nearest training texts below it."""
    subject, source, rows = explanation.subject, training.parts[0][0], []
    assert explanation.maps is not None
    for row, numbers in enumerate(embedding.neighbors[:_MAX_NEIGHBORED]):
        batch = read_inputs(subject, training, np.array(numbers, dtype=np.int64))
        shown = (explanation.maps.examples[row].name, explanation.describe_answer(row)["explained"])
        end = _show_end(subject, explanation.maps.shown.inputs[row])
        rows.append([*(f"<b>{isolate_text(text, 60)}</b>" for text in shown), end])
        rows += [
            [
                isolate_text(source.describe(number), 60),
                isolate_text(_name_target(explanation, target), 30),
                _show_end(subject, tokens),
            ]
            for number, target, tokens in zip(numbers, batch.targets, batch.inputs, strict=True)
        ]
    return render_table(("text", "class", "its end"), rows, "Each shown text, and the texts that are nearest to it")


def _show_end(subject: Subject, tokens: Tensor) -> str:
    """Return the last characters of a text."""
    vocabulary = subject.loaded.spec.inputs.vocabulary
    assert vocabulary is not None
    pieces = vocabulary.list_pieces()
    text = b"".join(pieces[token] for token in tokens.tolist()).decode(errors="replace")
    return isolate_text(text[-_MAX_CHARACTERS:], _MAX_CHARACTERS)


def _name_target(explanation: Explanation, target: Tensor) -> str:
    """Return the name of a class; empty for other targets."""
    names = explanation.subject.loaded.spec.targets.names
    if target.ndim == 0 and not target.is_floating_point():
        return names[int(target)]
    return ""
