"""The head of a report: the name of the run, and one line that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.facts import (
    to_mapping,
)
from dnntrain.report.html import escape_text, isolate_text
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number


def render_heading(run: RunData) -> str:
    """Return the run's name, how it ended, and a description."""
    kind = {"done": "good", "failed": "bad", "diverged": "bad", "refused": "bad"}.get(run.status, "")
    reason = run.result.get("reason")
    reason_html = (
        f'<p class="reason {kind}">{escape_text(reason, 600)}</p>' if isinstance(reason, str) and reason else ""
    )
    return (
        f'<header><p class="kicker">dnntrain report</p><div class="title"><h1>{isolate_text(run.name)}</h1>'
        f'<span class="pill {kind}">{escape_text(run.status)}</span></div>'
        f'<p class="about">{_describe_run(run)}</p>{reason_html}</header>'
    )


def _describe_run(run: RunData) -> str:
    plan = run.plan
    model, data, precision = (to_mapping(plan.get(name)) for name in ("model", "data", "precision"))
    device, ranks = plan.get("device"), parse_number(plan.get("ranks"))
    facts = [
        model.get("name") if model else plan.get("model"),
        data.get("name") if data else plan.get("data"),
        f"{plan.get('layout')}{f', {ranks:.0f} ranks' if ranks > 1 else ''}" if plan.get("layout") else None,
        f"on {device}" if device else None,
        precision.get("name") if precision else plan.get("precision"),
        _format_batch_size(plan),
    ]
    return " · ".join(isolate_text(fact, 80) for fact in facts if fact)


def _format_batch_size(plan: Mapping[str, Any]) -> str | None:
    """Return `batch 128`, or `batch 128 to 512` if the size is scheduled."""
    changes = to_mapping(plan.get("timetable")).get("changes")
    if isinstance(changes, list) and len(changes) > 1:
        sizes = [parse_number(change[-1]) for change in changes if isinstance(change, list) and change]
        return f"batch {min(sizes):.0f} to {max(sizes):.0f}"
    return f"batch {plan.get('batch_size')}" if plan.get("batch_size") else None
