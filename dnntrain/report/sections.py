"""The parts of a single run's report, in the order in which they stand on the page."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from typing import Any

from dnntrain.report.confusion import class_names, confusion_of, mistakes
from dnntrain.report.format import metric_text, percent, short
from dnntrain.report.html import details, escaped, isolated, pairs, section
from dnntrain.report.load_run import RunData, number
from dnntrain.report.svg_chart import Curve, Mark, chart, curve
from dnntrain.utils.units import counted, format_bytes, format_count, format_seconds

_PICTURES = 48
_PICTURE_BYTES = 24 * 2**10
_PICTURES_BYTES = 300 * 2**10
_CONFIG_ROWS = 500

#: Columns that are set, not measured: drawn as they are.
_SET = ("lr", "batch_size", "momentum", "weight_decay", "drop_rate")
_KNOWN = {"loss", "accuracy", "examples_per_s", *_SET}


def heading(run: RunData) -> str:
    """The run's name, how it ended, and what it was."""
    kind = {"done": "good", "failed": "bad", "diverged": "bad", "refused": "bad"}.get(run.status, "")
    reason = run.result.get("reason")
    told = f'<p class="reason {kind}">{escaped(reason, 600)}</p>' if isinstance(reason, str) and reason else ""
    return (
        f'<header><p class="kicker">dnntrain report</p><div class="title"><h1>{isolated(run.name)}</h1>'
        f'<span class="pill {kind}">{escaped(run.status)}</span></div><p class="about">{_about(run)}</p>{told}</header>'
    )


def _about(run: RunData) -> str:
    plan = run.plan
    model, data, precision = (_mapping(plan.get(name)) for name in ("model", "data", "precision"))
    device, ranks = plan.get("device"), number(plan.get("ranks"))
    facts = [
        model.get("name") if model else plan.get("model"),
        data.get("name") if data else plan.get("data"),
        f"{plan.get('layout')}{f', {ranks:.0f} ranks' if ranks > 1 else ''}" if plan.get("layout") else None,
        f"on {device}" if device else None,
        precision.get("name") if precision else plan.get("precision"),
        _batch_text(plan),
    ]
    return " · ".join(isolated(fact, 80) for fact in facts if fact)


def cards(run: RunData) -> str:
    """The figures that matter, largest first."""
    result = run.result
    best_name, best, best_step = best_value(run)
    test = test_value(run, "accuracy")
    entries = [
        ("Test accuracy", percent(test) if math.isfinite(test) else "", _test_note(run)),
        (
            f"Best val {best_name}",
            metric_text(best_name, best) if math.isfinite(best) else "",
            f"step {short(best_step)}",
        ),
        ("Training time", _seconds(result.get("train_s")), _length(run)),
        ("Examples a second", _speed(result.get("examples_per_s")), _step_ms(result)),
        ("Peak memory", _megabytes(result.get("peak_memory_mb")), _estimate(run)),
        ("Parameters", _parameters(run), _flops(run)),
    ]
    body = "".join(
        f'<div class="card{" main" if label == "Test accuracy" else ""}"><dt>{escaped(label)}</dt>'
        f"<dd>{escaped(value)}{f'<small>{escaped(note)}</small>' if note else ''}</dd></div>"
        for label, value, note in entries
        if value
    )
    return f'<dl class="cards">{body}</dl>' if body else ""


def best_value(run: RunData) -> tuple[str, float, float]:
    """(metric, best validation value, its step): of result.json, else of the metrics; NaN where there is none."""
    name = run.metric
    value, step = number(run.result.get("best")), number(run.result.get("best_step"))
    if math.isfinite(value):
        return name, value, step
    points = run.get("val", name).finite()
    if not points:
        return name, math.nan, math.nan
    step, value = (min if name == "loss" else max)(points, key=lambda point: point[1])
    return name, value, step


def _batch_text(plan: Mapping[str, Any]) -> str | None:
    """`batch 128`, or `batch 128 to 512` where the size is scheduled."""
    changes = _mapping(plan.get("timetable")).get("changes")
    if isinstance(changes, list) and len(changes) > 1:
        sizes = [number(change[-1]) for change in changes if isinstance(change, list) and change]
        return f"batch {min(sizes):.0f} to {max(sizes):.0f}"
    return f"batch {plan.get('batch_size')}" if plan.get("batch_size") else None


def test_value(run: RunData, name: str) -> float:
    """A figure of the test split: of evaluation.json, else of the metrics; NaN where there is none."""
    value = number(run.evaluation.get(name)) if run.evaluation.get("split", "test") == "test" else math.nan
    points = run.get("test", name).finite()
    return value if math.isfinite(value) or not points else points[-1][1]


def charts(run: RunData) -> str:
    """All curves of the run; decisions are marked and numbered as in the list below them."""
    marks = _marks(run)
    best_name, best, best_step = best_value(run)
    starred = (
        [Mark(best_step, "★", f"best val {best_name}: {metric_text(best_name, best)}")]
        if math.isfinite(best_step)
        else []
    )
    losses = [_curve(run, "train", "loss", "train", 0), _curve(run, "val", "loss", "val", 1)]
    accuracies = [_curve(run, "train", "accuracy", "train", 0), _curve(run, "val", "accuracy", "val", 1)]
    accuracies += [
        _curve(run, "val", "accuracy_raw", "val, not averaged", 2),
        _curve(run, "val", "top5", "val top 5", 3),
    ]
    figures = [
        chart("Loss", losses, metric="loss", marks=marks + (starred if best_name == "loss" else [])),
        chart("Accuracy", accuracies, metric="accuracy", marks=marks + (starred if best_name != "loss" else [])),
        chart("Learning rate", [_curve(run, "train", "lr", "learning rate", 2)], metric="lr", marks=marks),
        *(
            chart(name.replace("_", " ").capitalize(), [_curve(run, "train", name, name, 3)], marks=marks, zero=True)
            for name in ("momentum", "weight_decay", "drop_rate")
        ),
        chart("Batch size", [_curve(run, "train", "batch_size", "examples of a step", 4)], marks=marks, zero=True),
        chart("Examples per second", [_curve(run, "train", "examples_per_s", "training", 5)], marks=marks, zero=True),
    ]
    others = sorted(
        {name for split, name in run.series if split in ("train", "val")} - _KNOWN - {"accuracy_raw", "top5"}
    )
    for name in others[:6]:
        both = [_curve(run, "train", name, "train", 0), _curve(run, "val", name, "val", 1)]
        figures.append(chart(name, both, metric=name, marks=marks))
    drawn = [figure for figure in figures if figure]
    if not drawn:
        return section("Curves", '<p class="note">No metrics were written.</p>')
    return section("Curves", f'<div class="charts">{"".join(drawn)}</div>{_event_list(run)}')


def _curve(run: RunData, split: str, name: str, label: str, tone: int) -> Curve:
    return curve(label, run.get(split, name), tone, noisy=split == "train" and name not in _SET)


def _marks(run: RunData) -> list[Mark]:
    return [Mark(event.step, str(index), event.reason or event.name) for index, event in enumerate(run.events[:20], 1)]


def _event_list(run: RunData) -> str:
    if not run.events:
        return ""
    items = "".join(
        f"<li><b>{index}</b>step {short(event.step)}, {escaped(event.name)}: {escaped(event.reason or '-')}</li>"
        for index, event in enumerate(run.events, 1)
    )
    return f'<h2>Decisions</h2><ol class="events">{items}</ol>'


def confusion(run: RunData) -> str:
    """The confusion matrix and what follows from it."""
    found = confusion_of(run.evaluation)
    return section("Mistakes on the test split", mistakes(*found)) if found else ""


def gallery(run: RunData) -> str:
    """The most wrong examples as pictures."""
    wrong = run.evaluation.get("wrong")
    if not isinstance(wrong, list):
        return ""
    confusion = run.evaluation.get("confusion")
    names = class_names(run.evaluation, len(confusion) if isinstance(confusion, list) else 0)
    figures, left = [], _PICTURES_BYTES
    for sample in wrong[:_PICTURES]:
        if not isinstance(sample, dict) or (data := picture(sample.get("image"))) is None or len(data) > left:
            continue
        left -= len(data)
        label, predicted = _class(sample.get("label"), names), _class(sample.get("predicted"), names)
        sure, name = number(sample.get("probability")), sample.get("name", "")
        alt = f"{name}: the true class is {label}, predicted {predicted}"
        figures.append(
            f'<figure><img alt="{escaped(alt)}" src="data:image/png;base64,{data}"><figcaption>'
            f"<b>{isolated(label, 40)}</b> → <s>{isolated(predicted, 40)}</s>"
            f"<small>{percent(sure)} sure</small><small>{isolated(name, 60)}</small></figcaption></figure>"
        )
    body = (
        '<p class="note" style="margin:0 0 12px">Of the test split: true class → predicted class, the surest first.</p>'
    )
    return section("Most wrong", f'{body}<div class="gallery">{"".join(figures)}</div>') if figures else ""


def picture(data: object) -> str | None:
    """`data` where it is a small PNG in base64, else None."""
    if not isinstance(data, str) or len(data) > _PICTURE_BYTES:
        return None
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    if raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR" or len(raw) < 33:
        return None
    width, height = struct.unpack(">II", raw[16:24])
    return base64.b64encode(raw).decode("ascii") if 0 < width <= 256 and 0 < height <= 256 else None


def _class(value: object, names: list[str]) -> str:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)[:40]


def reproduce(run: RunData) -> str:
    """The command that trains this again, and the code it ran with."""
    git = _mapping(run.environment.get("git"))
    commit = git.get("commit")
    # In the same run directory, a finished run would only be found to be done.
    kept = [item for item in run.overrides if not item.lstrip("'\"").startswith(("run_dir=", "resume="))]
    lines = [" ".join(("dnntrain train", *kept))]
    if isinstance(commit, str) and commit.isalnum():
        lines.insert(0, f"git checkout {commit}")
    dirty = '<p class="note">The code had changes that are not in this commit.</p>' if git.get("dirty") is True else ""
    if not run.overrides and not run.config:
        return ""
    return section("Reproduce", f"<pre><code>{escaped(chr(10).join(lines), 4000)}</code></pre>{dirty}")


def facts(run: RunData) -> str:
    """Plan, configuration and environment, folded."""
    config = run.config[:_CONFIG_ROWS]
    left_out = len(run.config) - len(config)
    caption = "The resolved configuration" + (f"; {left_out} more keys are in config.yaml" if left_out else "")
    notes = run.plan.get("notes")
    told = "".join(f"<li>{escaped(note)}</li>" for note in notes[:30]) if isinstance(notes, list) else ""
    plan = pairs(_rows(run.plan, skip=("notes",)), "What was planned before the run began")
    body = details(f"Configuration ({len(run.config)} keys)", pairs(config, caption) if config else "")
    body += details("Plan", plan + (f'<ul class="events">{told}</ul>' if told else "") if run.plan else "")
    body += details("Environment", pairs(_rows(run.environment), "Where the run took place"))
    body += details("Result", pairs(_rows(run.result), "result.json"))
    return section("Details", body)


def footer(*runs: RunData) -> str:
    """Where this came from, and what was left out."""
    lines = [
        f"<p>{'<br>'.join((f'{run.rows:,} rows of metrics · {isolated(run.path, 300)}', *map(escaped, run.notes)))}</p>"
        for run in runs
    ]
    return f"<footer>{''.join(lines)}</footer>"


def _rows(
    value: Mapping[str, Any], skip: tuple[str, ...] = (), prefix: str = "", depth: int = 0
) -> list[tuple[str, str]]:
    """A nested object as (dotted name, text) rows, 200 at most."""
    rows: list[tuple[str, str]] = []
    for name, item in list(value.items())[:200]:
        if name in skip:
            continue
        if isinstance(item, dict) and depth < 4:
            rows += _rows(item, (), f"{prefix}{name}.", depth + 1)
        elif isinstance(item, list):
            rows.append((f"{prefix}{name}", " ".join(str(entry)[:80] for entry in item[:60])))
        else:
            rows.append((f"{prefix}{name}", str(item)))
    return rows[:200]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _test_note(run: RunData) -> str:
    loss, count = test_value(run, "loss"), number(run.evaluation.get("examples"))
    parts = [f"loss {short(loss)}" if math.isfinite(loss) else "", f"{count:,.0f} examples" if count > 0 else ""]
    return ", ".join(part for part in parts if part)


def _seconds(value: Any) -> str:
    seconds = number(value)
    return format_seconds(seconds) if math.isfinite(seconds) and seconds >= 0 else ""


def _length(run: RunData) -> str:
    steps, epochs = number(run.result.get("steps")), number(run.result.get("epochs"))
    parts = [
        counted(f"{steps:,.0f}", "step") if steps >= 0 else "",
        counted(f"{epochs:.4g}", "epoch") if epochs >= 0 else "",
    ]
    return ", ".join(part for part in parts if part)


def _speed(value: Any) -> str:
    rate = number(value)
    return f"{rate:,.0f}" if 0 < rate < 1e15 else ""


def _step_ms(result: Mapping[str, Any]) -> str:
    step_ms = number(result.get("step_ms"))
    return f"{step_ms:.3g} ms a step" if step_ms > 0 else ""


def _megabytes(value: Any) -> str:
    size = number(value)
    return format_bytes(size * 2**20) if 0 < size < 1e12 else ""


def _estimate(run: RunData) -> str:
    estimate = number(run.result.get("estimated_memory_mb"))
    return f"planned {format_bytes(estimate * 2**20)}" if 0 < estimate < 1e12 else ""


def _parameters(run: RunData) -> str:
    model = _mapping(run.plan.get("model"))
    counts = [
        number(value) for value in (run.result.get("parameters"), model.get("parameters"), run.plan.get("parameters"))
    ]
    return next((format_count(count) for count in counts if 0 < count < 1e18), "")


def _flops(run: RunData) -> str:
    flops = number(_mapping(run.plan.get("model")).get("flops_per_example", run.plan.get("flops_per_example")))
    return f"{format_count(flops)}FLOPs an example" if 0 < flops < 1e18 else ""
