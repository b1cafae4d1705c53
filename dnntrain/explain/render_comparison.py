"""Show how two models compare, the plane of the features, and the importance of columns."""

from __future__ import annotations

import math

from dnntrain.explain.comparison import Comparison
from dnntrain.explain.embedding import Embedding
from dnntrain.explain.explanation import Explanation
from dnntrain.explain.pointing import PointingGame
from dnntrain.explain.statistics import Interval
from dnntrain.protocols import TargetKind
from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table

_LEVELS = (0.2, 0.4, 0.6, 0.8)
_TONES = 8


def render_comparison(comparison: Comparison) -> str:
    """Return the figures of both models, and the similarity of their layers."""
    rows = [
        [escape_text(name), *(_format(name, value) for value in (mine, other, other - mine))]
        for name, mine, other in comparison.figures
    ]
    rows.append(["same answer", "", format_percent(comparison.agreement), ""])
    head = ("", "this model", isolate_text(comparison.label, 60), "difference")
    table = render_table(head, rows, "On the same examples")
    matrix = _render_matrix(comparison)
    body = f'<div class="pairing"><div class="panel">{table}</div><div class="panel">{matrix}</div></div>'
    return render_section("Against the other model", body)


def _format(name: str, value: float) -> str:
    return format_percent(value) if name in ("accuracy", "ece") else format_short(value)


def _render_matrix(comparison: Comparison) -> str:
    similarity = comparison.similarity
    head = "".join(
        f'<th scope="col" title="{escape_text(name)}">{number}</th>' for number, name in enumerate(similarity.columns)
    )
    body = []
    for number, (name, values) in enumerate(zip(similarity.rows, similarity.values, strict=True)):
        cells = "".join(
            f'<td class="r{sum(value > level for level in _LEVELS)}" '
            f'title="{escape_text(f"{name}, {column}: {value:.3f}")}">{"–" if math.isnan(value) else f"{value:.2f}"}</td>'
            for column, value in zip(similarity.columns, values, strict=True)
        )
        body.append(f'<tr><th scope="row">{isolate_text(f"{number} {name}", 30)}</th>{cells}</tr>')
    caption = "Similarity of layers (CKA). Rows: this model. Columns: the other one, in order."
    return (
        f'<p class="note">{caption}</p><div class="wide below"><table class="matrix"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def render_embedding(explanation: Explanation, embedding: Embedding, neighbors: str) -> str:
    """Return the plane of the features, and the nearest training examples."""
    agreement = embedding.agreement
    text = (
        f"Features before {embedding.layer} on their two principal axes ({format_percent(sum(embedding.explained))} of "
        "the variance)."
    )
    if agreement is not None:
        text += f" The nearest training examples vote for the label of {format_percent(agreement)} of the examples."
    cloud = _draw_cloud(explanation, embedding)
    near = f'<h3 class="below">Nearest training examples, the shown example first</h3>{neighbors}' if neighbors else ""
    return render_section("Which examples are alike?", f'<p class="note">{escape_text(text, 400)}</p>{cloud}{near}')


def _draw_cloud(explanation: Explanation, embedding: Embedding) -> str:
    points = embedding.points
    low, high = points.amin(0), points.amax(0)
    places = ((points - low) / (high - low).clamp_min(1e-30) * 960 + 20).tolist()
    names = explanation.subject.loaded.spec.targets.names
    is_class = explanation.subject.target_kind is TargetKind.CLASS and not explanation.subject.predicts_tokens
    groups: dict[int, list[str]] = {}
    for (x, y), target in zip(places, embedding.targets, strict=True):
        group = int(target) if is_class else 0
        groups.setdefault(group, []).append(f"M{x:.0f} {1000 - y:.0f}h0")
    paths = "".join(
        f'<path class="dots t{group % _TONES}" d="{"".join(marks)}"/>' for group, marks in sorted(groups.items())
    )
    legend = ""
    if is_class and len(names) <= 20:
        entries = "".join(
            f'<li><i class="t{number % _TONES}"></i><bdi>{escape_text(name, 30)}</bdi></li>'
            for number, name in enumerate(names)
        )
        legend = f'<ul class="legend">{entries}</ul>'
    label = escape_text(f"{len(points)} examples on two principal axes", 200)
    return (
        f'<figure class="chart below"><figcaption><h3>Principal axes</h3>{legend}</figcaption><div class="plot cloud">'
        f'<div class="field"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{paths}</svg></div></div></figure>"
    )


def render_pointing(game: PointingGame) -> str:
    """Return the pointing game."""
    rows = [
        ["map", *map(_format_interval, (game.hits, game.near_hits, game.inside))],
        ["center of the image", _format_interval(game.center), _format_interval(game.near_center), ""],
        ["random map", _format_interval(game.random), _format_interval(game.near_random), format_percent(game.area)],
    ]
    pill = f'<span class="pill {"good" if game.passed else "bad"}">{"passed" if game.passed else "failed"}</span>'
    caption = (
        f"{game.objects} objects with exact masks that the model sees: how often the largest value is on the object, on "
        "it or beside it (3 % of the side), and the share of the map that is on it. A map must beat the center."
    )
    table = render_table(("", "hits", "near", "inside"), rows, caption)
    return render_section("Pointing game", f'<div class="panel measures">{table}<p class="note">{pill}</p></div>')


def _format_interval(interval: Interval) -> str:
    low, high = format_percent(interval.low), format_percent(interval.high)
    return f"{format_percent(interval.mean)} <small>{low} to {high}</small>"


def render_importance(explanation: Explanation) -> str:
    """Return the importance of each column; bars of columns that may not matter are gray."""
    items = explanation.importance
    if not items:
        return ""
    largest = max(max(item.rise.mean for item in items), 1e-30)
    rows = "".join(
        f'<tr{"" if item.is_trusted else " class=doubtful"}><th scope="row">{isolate_text(item.name, 60)}</th>'
        f"<td>{item.rise.mean:+.4g}</td><td><small>{item.rise.low:+.3g} to {item.rise.high:+.3g}</small></td>"
        f'<td class="bar"><div><i style="width:{100 * max(item.rise.mean, 0) / largest:.1f}%"></i></div></td></tr>'
        for item in items
    )
    caption = "Rise of the loss if the column is shuffled, with its 95 % interval over examples. Gray: the rise may be chance."
    table = f'<table class="bars"><caption>{caption}</caption><tbody>{rows}</tbody></table>'
    return render_section("Which columns count?", f'<div class="panel">{table}</div>')
