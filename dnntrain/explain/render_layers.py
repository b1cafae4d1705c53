"""Show the layers of a network, and which of them cannot be computed in integers."""

from __future__ import annotations

from dnntrain.explain.explanation import Explanation
from dnntrain.explain.layers import find_layer_faults
from dnntrain.report.format import format_percent, format_short
from dnntrain.report.html import escape_text, isolate_text, render_details, render_section, render_table

_MAX_ROWS = 200
_MAX_BLAMED = 12


def render_layers(explanation: Explanation) -> str:
    """Return the table of the layers and the blame; empty without layers."""
    if not explanation.layers:
        return ""
    rows = [
        [
            isolate_text(layer.name, 60),
            format_short(layer.parameters),
            format_short(layer.rms),
            format_short(layer.gradient),
            format_percent(layer.rank),
            _mark(format_percent(layer.dead), layer.dead >= 0.5),
            format_percent(layer.idle),
            f"{layer.weight_snr:.0f}",
            _mark(f"{layer.output_snr:.0f}", layer.output_snr < 10),
            _format_cka(explanation, layer.name),
        ]
        for layer in explanation.layers[:_MAX_ROWS]
    ]
    head = ("layer", "weights", "rms", "gradient", "rank", "dead", "idle", "weights, dB", "outputs, dB", "CKA int8")
    caption = (
        "rms: of the weights. gradient: norm of the gradient over norm of the weights. rank: effective rank over the "
        "largest possible. dead: units that change no outcome. idle: outputs without gradient. dB: signal to noise in "
        "8-bit integers. CKA int8: similarity of the outputs with all layers in integers."
    )
    table = render_table(head, rows, caption)
    faults = "".join(
        f'<p class="reason bad"><b>{isolate_text(name, 80)}</b>: {escape_text("; ".join(faults), 300)}</p>'
        for name, faults in find_layer_faults(explanation.layers).items()
        if faults
    )
    body = f'{faults}{_render_blame(explanation)}<div class="below">{render_details("All layers", table)}</div>'
    return render_section("Layers", body)


def _render_blame(explanation: Explanation) -> str:
    together = explanation.blame_together
    if together is None:
        return ""
    rows = []
    for item in [together, *explanation.blame[:_MAX_BLAMED]]:
        name = isolate_text(item.name, 60)
        drop = "" if item.drop is None else f"{100 * item.drop.mean:+.2f}"
        rise = f"{item.rise.mean:+.4f} <small>{item.rise.low:+.4f} to {item.rise.high:+.4f}</small>"
        rows.append([name, _mark(rise, item.is_guilty), drop, format_percent(item.changed)])
    caption = (
        "Each layer alone with weights and inputs in 8-bit integers: the rise of the loss with its 95 % interval, the "
        "drop of the accuracy in points, and the share of changed answers. A layer in red certainly costs."
    )
    table = render_table(("layer in integers", "loss", "accuracy drop", "changed"), rows, caption)
    return f'<div class="panel measures">{table}</div>'


def _mark(text: str, is_bad: bool) -> str:
    return f'<span class="fault">{text}</span>' if is_bad else text


def _format_cka(explanation: Explanation, name: str) -> str:
    value = explanation.integer_similarity.get(name)
    return "" if value is None else f"{value:.3f}"
