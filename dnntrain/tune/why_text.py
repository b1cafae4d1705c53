"""Write the result of `dnntrain why` in words."""

from __future__ import annotations

from collections.abc import Iterator

from dnntrain.training import step_phases as phase
from dnntrain.tune.probe import UNDECIDED
from dnntrain.tune.remedies import CALLBACKS, COMMUNICATION, COMPUTE, DATA, ROWS, SMALL_BATCH
from dnntrain.tune.why import WhyResult, select_best
from dnntrain.utils.units import format_count, format_seconds

#: The bottlenecks in words.
_TEXTS = {
    DATA: "data: the step waits for its batch",
    CALLBACKS: "callbacks: a method's own code takes a large part of the step",
    COMMUNICATION: "communication: the backward pass waits for the gradients of other ranks",
    ROWS: "rows: writing metrics takes a large part of the step",
    SMALL_BATCH: "small batch: the step takes little longer with more examples",
    COMPUTE: "compute: the passes through the network, and the update",
}

#: The sum of the phases may differ from the step by this share without a note.
_PHASES_TOLERANCE = 0.05

#: The effect of a remedy on the result.
_GRADES = {
    "bitwise": "the same numbers",
    "rounding": "the same up to rounding",
    "statistical": "another training: compare with dnntrain prove",
}


def format_why(result: WhyResult) -> Iterator[str]:
    """Yield the lines: the time by phase, the rates, the bottleneck and the remedies."""
    step = result.step
    rate = step.examples / step.seconds
    yield f"a step takes {1000 * step.seconds:.3g} ms: {step.examples} examples, {rate:,.0f} examples/s"
    total = sum(step.phases.values()) or 1.0
    for name, seconds in step.list_groups().items():
        yield f"  {name:<20} {1000 * seconds:>9.3f} ms {seconds / total:>6.1%}"
        parts = {part: value for part, value in step.phases.items() if part.startswith(f"{name}/")}
        for part, value in parts.items():
            yield f"    {part.partition('/')[2]:<18} {1000 * value:>9.3f} ms {value / total:>6.1%}"
    if step.phases and abs(total - step.seconds) > _PHASES_TOLERANCE * step.seconds:
        yield f"  the phases are timed in other steps: they add up to {1000 * total:.3g} ms"
    for item in result.rates:
        achieved, attainable = (f"{format_count(value)}{item.unit}" for value in (item.achieved, item.attainable))
        yield f"{item.name}: {achieved} of {attainable} that this machine reaches ({item.share:.0%})"
    yield f"bottleneck  {_TEXTS[result.bottleneck]}{_name_owner(result)}"
    best = select_best(result)
    undecided = [item for item in result.remedies if item.probe.verdict.startswith(UNDECIDED)]
    if best:
        yield "remedies, measured in turns with the line as it is:"
    else:
        yield f"remedies: none of those tried is {'known to be ' if undecided else ''}faster"
    for tried in best:
        assert tried.probe.ratio is not None
        median, low, high = tried.probe.ratio
        start = f", starts {format_seconds(tried.probe.startup_s)} later" if tried.probe.startup_s > 1 else ""
        words = " ".join(tried.probe.words)
        yield f"  {median:.2f} × ({low:.2f} to {high:.2f})  {words}  {_GRADES[tried.probe.grade]}{start}"
    for other in [item for item in result.remedies if item not in best]:
        words, verdict = " ".join(other.probe.words), other.probe.verdict
        if other in undecided:
            hint = ". --budget gives more time" if other.probe.pairs else ""
            yield f"  {UNDECIDED}: {words} ({verdict.removeprefix(f'{UNDECIDED}: ')}){hint}"
        elif verdict == "faster":
            yield f"  faster too: {words}"
        else:
            yield f"  not better: {words} ({verdict})"
    if result.untried:
        yield f"  no time for: {' '.join(result.untried)}. --budget gives more"
    if result.note:
        yield f"note: {result.note}"


def _name_owner(result: WhyResult) -> str:
    """Return the method whose callbacks take the most time, if they are the bottleneck."""
    if result.bottleneck != CALLBACKS:
        return ""
    prefix = f"{phase.CALLBACKS}/"
    owners = {name: value for name, value in result.step.phases.items() if name.startswith(prefix)}
    return f" ({max(owners, key=lambda name: owners[name]).removeprefix(prefix)})"
