"""How a run is repeated, and the table of its facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.report.html import escape_text, render_details, render_pairs, render_section
from dnntrain.report.load_run import RunData
from dnntrain.report.untrusted_files import parse_number
from dnntrain.utils.units import format_bytes, format_count, pluralize

_MAX_CONFIG_ROWS = 500


def render_reproduction(run: RunData) -> str:
    """Return the command that trains this again, and the code version."""
    git = to_mapping(run.environment.get("git"))
    commit = git.get("commit")
    # In the same run directory, a finished run would only be reported as done.
    overrides = [item for item in run.overrides if not item.lstrip("'\"").startswith(("run_dir=", "resume="))]
    lines = [" ".join(("dnntrain train", *overrides))]
    if isinstance(commit, str) and commit.isalnum():
        lines.insert(0, f"git checkout {commit}")
    dirty = '<p class="note">The code had changes that are not in this commit.</p>' if git.get("dirty") is True else ""
    if not run.overrides and not run.config:
        return ""
    return render_section("Reproduce", f"<pre><code>{escape_text(chr(10).join(lines), 4000)}</code></pre>{dirty}")


def render_facts(run: RunData) -> str:
    """Return plan, configuration and environment, folded."""
    config = run.config[:_MAX_CONFIG_ROWS]
    hidden_count = len(run.config) - len(config)
    caption = "The resolved configuration" + (f"; {hidden_count} more keys are in config.yaml" if hidden_count else "")
    notes = run.plan.get("notes")
    note_items = "".join(f"<li>{escape_text(note)}</li>" for note in notes[:30]) if isinstance(notes, list) else ""
    plan = render_pairs(_flatten_rows(run.plan, skip=("notes",)), "The plan of the run")
    body = render_details(f"Configuration ({len(run.config)} keys)", render_pairs(config, caption) if config else "")
    body += render_details(
        "Plan", plan + (f'<ul class="events">{note_items}</ul>' if note_items else "") if run.plan else ""
    )
    body += render_details("Environment", render_pairs(_flatten_rows(run.environment), "The environment of the run"))
    body += render_details("Result", render_pairs(_flatten_rows(run.result), "result.json"))
    return render_section("Details", body)


def _flatten_rows(
    value: Mapping[str, Any], skip: tuple[str, ...] = (), prefix: str = "", depth: int = 0
) -> list[tuple[str, str]]:
    """Return a nested object as (dotted name, text) rows, 200 at most."""
    rows: list[tuple[str, str]] = []
    for name, item in list(value.items())[:200]:
        if name in skip:
            continue
        if isinstance(item, dict) and depth < 4:
            rows += _flatten_rows(item, (), f"{prefix}{name}.", depth + 1)
        elif isinstance(item, list):
            rows.append((f"{prefix}{name}", " ".join(str(entry)[:80] for entry in item[:60])))
        else:
            rows.append((f"{prefix}{name}", str(item)))
    return rows[:200]


def _format_length(run: RunData) -> str:
    steps, epochs = parse_number(run.result.get("steps")), parse_number(run.result.get("epochs"))
    parts = [
        pluralize(f"{steps:,.0f}", "step") if steps >= 0 else "",
        pluralize(f"{epochs:.4g}", "epoch") if epochs >= 0 else "",
    ]
    return ", ".join(part for part in parts if part)


def _format_speed(value: Any) -> str:
    rate = parse_number(value)
    return f"{rate:,.0f}" if 0 < rate < 1e15 else ""


def _format_step_ms(result: Mapping[str, Any]) -> str:
    step_ms = parse_number(result.get("step_ms"))
    return f"{step_ms:.3g} ms a step" if step_ms > 0 else ""


def _format_megabytes(value: Any) -> str:
    size = parse_number(value)
    return format_bytes(size * 2**20) if 0 < size < 1e12 else ""


def _format_memory_estimate(run: RunData) -> str:
    estimate = parse_number(run.result.get("estimated_memory_mb"))
    return f"planned {format_bytes(estimate * 2**20)}" if 0 < estimate < 1e12 else ""


def _format_parameters(run: RunData) -> str:
    model = to_mapping(run.plan.get("model"))
    counts = [
        parse_number(value)
        for value in (run.result.get("parameters"), model.get("parameters"), run.plan.get("parameters"))
    ]
    return next((format_count(count) for count in counts if 0 < count < 1e18), "")


def _format_flops(run: RunData) -> str:
    flops = parse_number(to_mapping(run.plan.get("model")).get("flops_per_example", run.plan.get("flops_per_example")))
    return f"{format_count(flops)}FLOPs per example" if 0 < flops < 1e18 else ""


def to_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
