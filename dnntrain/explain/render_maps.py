"""Show maps over their images, and the checks of their method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dnntrain.explain.explanation import Explanation
from dnntrain.explain.map_checks import Check
from dnntrain.explain.maps import CheckedMaps
from dnntrain.explain.pictures import draw_map, draw_picture, restore_pixels
from dnntrain.explain.statistics import Interval
from dnntrain.report.chart_data import Curve
from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, isolate_text, render_section, render_table
from dnntrain.report.svg_chart import draw_chart

TITLES = {
    "worst": "Most wrong",
    "uncertain": "Most unsure",
    "random": "Random examples",
    "files": "Your files",
}


def render_maps(explanation: Explanation, maps: CheckedMaps, shown: int) -> str:
    """Return a section for each set of examples, `shown` examples in all."""
    pixels = restore_pixels(maps.shown.inputs, explanation.subject.loaded.spec.inputs)

    def render(row: int, is_trusted: bool) -> str:
        heat = draw_map(pixels[row], maps.shown.maps[row].double().cpu().numpy(), is_trusted)
        images = _render_image(draw_picture(pixels[row]), "image") + _render_image(heat, "map")
        return images + _render_other(explanation, row, pixels[row])

    return render_groups(explanation, maps, shown, _describe(explanation, maps), "map", render)


def render_groups(
    explanation: Explanation,
    maps: CheckedMaps,
    shown: int,
    note: str,
    style: str,
    render: Callable[[int, bool], str],
) -> str:
    """Return a section for each set of examples, `shown` examples in all.

    `render(row, is_trusted)` shows an example; `style` is "map", or "text" for examples in lines.
    """
    sections = []
    for group, title in TITLES.items():
        figures = []
        for row, example in enumerate(maps.examples[:shown]):
            if example.group != group:
                continue
            faults = maps.find_faults(row)
            classes = ("map", *(() if style == "map" else (style,)), *(("doubtful",) if faults else ()))
            figures.append(
                f'<figure class="{" ".join(classes)}">{render(row, not faults)}'
                f"<figcaption>{render_caption(explanation, row, faults)}</figcaption></figure>"
            )
        body = f'<p class="note">{note}</p><div class="{style}s">{"".join(figures)}</div>'
        sections.append(render_section(title, body if figures else ""))
    return "".join(sections)


def _describe(explanation: Explanation, maps: CheckedMaps) -> str:
    others = explanation.others
    third = "" if others is None else f" The third picture is the map {escape_text(others.label)}."
    return (
        f"{escape_text(maps.method.name)}: bright places speak for the answer.{third} A gray map failed a check: do not "
        "trust it."
    )


def _render_image(data: str, noun: str) -> str:
    return f'<img alt="{noun}" src="data:image/png;base64,{data}">'


def _render_other(explanation: Explanation, row: int, pixels: NDArray[np.uint8]) -> str:
    """Return the map of the other model beside it; empty without one."""
    others = explanation.others
    if others is None or explanation.maps is None:
        return ""
    is_trusted = not explanation.maps.find_faults(row)
    heat = draw_map(pixels, others.maps[row].double().cpu().numpy(), is_trusted)
    return _render_image(heat, f"map {others.label}")


def render_caption(explanation: Explanation, row: int, faults: list[str]) -> str:
    """Return the answer for a shown example, its label and its name, and why its map is not to be trusted."""
    assert explanation.maps is not None
    answer = explanation.describe_answer(row)
    label = answer.get("label")
    is_wrong = isinstance(label, str) and label != answer["explained"]
    text = isolate_text(answer["explained"], 40)
    strong = f"<s>{text}</s>" if is_wrong else f"<b>{text}</b>"
    value = format_percent(answer["probability"]) if "probability" in answer else format_short(answer["value"])
    parts = [f"{strong} {value}"]
    if label is not None and (is_wrong or not isinstance(label, str)):
        shown = ", ".join(label) or "none" if isinstance(label, list) else label
        parts.append(f"label {isolate_text(format_short(shown) if isinstance(shown, float) else shown, 60)}")
    parts.append(f"<small>{isolate_text(explanation.maps.examples[row].name, 60)}</small>")
    if explanation.others is not None:
        correlation = float(explanation.others.correlations[row])
        parts.append(f"<small>{isolate_text(explanation.others.label, 40)}: rank correlation {correlation:.2f}</small>")
    if faults:
        parts.append(f'<small class="fault">{escape_text("; ".join(faults), 400)}</small>')
    return " ".join(parts)


def render_checks(maps: CheckedMaps) -> str:
    """Return the verdicts, and the curves of insertion, deletion and randomization."""
    rows = [
        [
            escape_text(check.name),
            _format_interval(check.value),
            "" if check.bound is None else _format_interval(check.bound),
            _render_verdict(check),
            escape_text(check.rule),
        ]
        for check in maps.checks
    ]
    caption = (
        f"{maps.method.name} on {len(maps.sample.maps)} random examples, with 95 % intervals. Insertion adds the "
        f"{maps.unit} to an empty input in the order of the map, deletion removes them: the share of the answer, "
        "averaged over all steps."
    )
    table = render_table(("check", "map", "other", "verdict", "rule"), rows, caption)
    return render_section("Are the maps right?", f'<div class="panel">{table}</div>{_render_charts(maps)}', "checks")


def _render_verdict(check: Check) -> str:
    return f'<span class="pill {"good" if check.passed else "bad"}">{"passed" if check.passed else "failed"}</span>'


def _format_interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} <small>{format_short(interval.low)} to {format_short(interval.high)}</small>"


def _render_charts(maps: CheckedMaps) -> str:
    charts = []
    for kind in ("insertion", "deletion"):
        curves = []
        for tone, order in enumerate(("map", *maps.sample.measured.curves.orders)):
            values = vars(maps.sample.measured.curves)[kind][order].mean(0).tolist()
            points = tuple((100 * step / (len(values) - 1), value) for step, value in enumerate(values))
            curves.append(Curve(maps.method.name if order == "map" else order, (points,), tone))
        title = f"{kind.capitalize()}: share of the answer"
        charts.append(draw_chart(title, curves, x_name=f"{maps.unit}, %", from_zero=True))
    randomization = maps.sample.measured.randomization
    if randomization is not None:
        values = [1.0, *randomization.correlations.mean(1).tolist()]
        points = tuple((float(stage), value) for stage, value in enumerate(values))
        charts.append(
            draw_chart(
                "Rank correlation with the trained map", [Curve("correlation", (points,), 0)], x_name="random stages"
            )
        )
    return f'<div class="charts below">{"".join(charts)}</div>'
