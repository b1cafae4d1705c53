"""Show how probabilities and shares of right answers agree."""

from __future__ import annotations

from dnntrain.explain.calibration import Calibration, Reliability
from dnntrain.report.chart_data import Curve
from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, render_section
from dnntrain.report.svg_chart import draw_chart


def render_calibration(calibration: Calibration) -> str:
    """Return the reliability diagrams before and after the temperature."""
    figures = [_draw("As trained", calibration.before, calibration.nll[0])]
    note = "too few validation examples to fit a temperature"
    if not calibration.is_softmax:
        note = "each class has a probability of its own, so no temperature is fitted"
    if calibration.after is not None and calibration.nll[1] is not None:
        figures.append(_draw(f"Temperature {calibration.temperature:.3g}", calibration.after, calibration.nll[1]))
        note = (
            f"the temperature {calibration.temperature:.3g} divides the logits; it was fitted on the validation split"
        )
    text = (
        f"{calibration.split}, {calibration.examples} examples: the share of right answers against the probability of "
        f"the answer; {note}."
    )
    body = f'<p class="note">{escape_text(text)}</p><div class="charts below">{"".join(figures)}</div>'
    return render_section("Do the probabilities hold?", body)


def _draw(title: str, reliability: Reliability, nll: float | None) -> str:
    points = tuple(
        (100 * mean, 100 * share)
        for count, mean, share in zip(reliability.counts, reliability.confidence, reliability.accuracy, strict=True)
        if count
    )
    diagonal = Curve("right", (((0.0, 0.0), (100.0, 100.0)),), 7, dashed=True)
    loss = "" if nll is None else f", loss {format_short(nll)}"
    heading = f"{title}: ECE {format_percent(reliability.ece)}{loss}"
    return draw_chart(heading, [Curve("model", (points,), 0), diagonal], x_name="probability, %", from_zero=True)
