"""Show texts with the tokens that speak for the answer in color."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnntrain.explain.explanation import Explanation
from dnntrain.explain.maps import CheckedMaps
from dnntrain.explain.render_maps import render_groups
from dnntrain.report.html import escape_text

#: Colors of tokens for the answer, against it, and of a text that failed a check.
_FOR, _AGAINST, _GRAY = "#ec5a32", "#3b7dd8", "#8a8a8a"

#: A share below this part of the largest one has no color.
_LEAST = 0.06


def render_texts(explanation: Explanation, maps: CheckedMaps, shown: int) -> str:
    """Return a section for each set of texts, `shown` texts in all."""

    def render(row: int, is_trusted: bool) -> str:
        return f"<p>{render_tokens(explanation.list_tokens(row), is_trusted)}</p>"

    return render_groups(explanation, maps, shown, _describe(explanation, maps), "text", render)


def _describe(explanation: Explanation, maps: CheckedMaps) -> str:
    answer = "the next token" if explanation.subject.predicts_tokens else "the class"
    return (
        f"{escape_text(maps.method.name)}: red tokens speak for {answer} that is named below the text, blue ones "
        "against it. A gray text failed a check: do not trust its colors."
    )


def render_tokens(tokens: Sequence[tuple[str, float]], is_trusted: bool) -> str:
    """Return tokens as text; the strength of a color is the token's share of the largest one."""
    largest = max((abs(share) for _, share in tokens if math.isfinite(share)), default=0.0) or 1.0
    parts = []
    for text, share in tokens:
        strength = abs(share) / largest if math.isfinite(share) else 0.0
        body = escape_text(text.replace("\n", "↵"), 60) + ("<br>" if "\n" in text else "")
        if strength < _LEAST:
            parts.append(body)
            continue
        color = _GRAY if not is_trusted else _FOR if share > 0 else _AGAINST
        parts.append(f'<i style="background:{color}{round(200 * strength):02x}" title="{share:+.3g}">{body}</i>')
    return "".join(parts)
