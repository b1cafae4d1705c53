"""Show texts that a language model generated, and the tokens that it expected least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dnntrain.report.html import escape_text, isolate_text, render_table
from dnntrain.report.untrusted_files import parse_number

_MAX_TEXTS = 8
_MAX_CHARACTERS = 4000
_MAX_ROWS = 48


def render_progress(texts: Sequence[tuple[float, str]]) -> str:
    """Return the texts that the model wrote at its evaluations, by step."""
    rows = [(f"{step:.0f}", isolate_text(text, 400)) for step, text in texts]
    return render_table(("step", "text"), rows, "A text of the model at each evaluation") if rows else ""


def render_texts(evaluation: Mapping[str, Any]) -> str:
    """Return the generated texts, the kernel of attention, and the most surprising tokens; empty if there are none."""
    samples, surprises = evaluation.get("samples"), evaluation.get("surprising_tokens")
    texts = [
        f"<pre>{escape_text(sample, _MAX_CHARACTERS)}</pre>"
        for sample in (samples[:_MAX_TEXTS] if isinstance(samples, list) else [])
        if isinstance(sample, str)
    ]
    rows = [
        (
            isolate_text(item.get("name", ""), 60),
            f"…{isolate_text(str(item.get('before', ''))[-60:], 60)}",
            isolate_text(repr(str(item.get("token", "")))[:40], 40),
            f"{parse_number(item.get('bits')):.1f}",
        )
        for item in (surprises[:_MAX_ROWS] if isinstance(surprises, list) else [])
        if isinstance(item, dict) and math.isfinite(parse_number(item.get("bits")))
    ]
    heading = "<p>Texts that the model generated:</p>" if texts else ""
    table = render_table(("text", "before", "token", "bits"), rows, "The most surprising tokens of the test split")
    kernel = evaluation.get("attention_kernel")
    note = f'<p class="note">Attention: {escape_text(kernel, 40)} kernel.</p>' if isinstance(kernel, str) else ""
    return heading + "".join(texts) + (table if rows else "") + note
