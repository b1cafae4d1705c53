"""Write the plan, the state and the result of a search as text."""

from __future__ import annotations

import shlex

from dnntrain.display.base import format_metric
from dnntrain.protocols.metric import MetricInfo
from dnntrain.sweep.prepare_search import Search
from dnntrain.sweep.run_search import SearchState
from dnntrain.sweep.search_results import choose_winner, list_results
from dnntrain.sweep.sweep_directory import RESULTS_FILE, STOPPED_EARLY, result_row
from dnntrain.utils.json_files import format_json
from dnntrain.utils.units import pluralize
from dnntrain.utils.words import add_config_dir


def format_search(state: SearchState, as_json: bool) -> str:
    """Return the path of the table of results, or the result as JSON."""
    search = state.search
    if not as_json:
        return str(search.folder / RESULTS_FILE)
    winner = choose_winner(state.log, search.metrics)
    return format_json(
        {
            "folder": str(search.folder),
            "metrics": [metric.name for metric in search.metrics],
            "winners": winner,
            "line": format_line(state, winner[0]) if winner else None,
            "importances": state.sampler.compute_importances(),
            "trials": [result_row(*pair) for pair in zip(state.trials, state.statuses, strict=True)],
        },
        indent=1,
    )


def format_plan(search: Search, as_json: bool) -> str:
    """Return the text of --dry-run: the dimensions, the number of trials, how many run at once."""
    identity = dict(search.identity or {})
    values = {"folder": str(search.folder), "at_once": len(search.resource_sets), "trials": search.num_trials}
    if as_json:
        return format_json({**values, **identity}, indent=1)
    count = "every combination" if search.num_trials is None else pluralize(search.num_trials, "trial")
    lines = [f"--search {search.options.search}: {count}, {len(search.resource_sets)} at once: {search.folder}"]
    for dimension in search.space.dimensions:
        scale = f"{' on a log scale' if dimension.is_log else ''}{', whole numbers' if dimension.is_whole else ''}"
        values_text = ", ".join(dimension.choices) or f"from {dimension.low:g} to {dimension.high:g}{scale}"
        lines.append(f"  {dimension.key}: {values_text}")
    return "\n".join(lines)


def describe_search(state: SearchState) -> list[str]:
    """Return the winner, the line that trains it, and the importance of each key."""
    search = state.search
    winners = choose_winner(state.log, search.metrics)
    if not winners:
        return ["no trial has a result"]
    results = list_results(state.log)
    names = " and ".join(metric.name for metric in search.metrics)
    lines = []
    for number in winners[:10]:
        figures = ", ".join(map(_format_result, search.metrics, results[number]))
        lines.append(f"trial {number + 1}: {figures}  {state.trials[number].label}")
    head = f"best {names} of {pluralize(len(state.trials), 'trial')}:" if len(winners) == 1 else f"best by {names}:"
    importances = state.sampler.compute_importances()
    shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
    stopped = sum(status.status == STOPPED_EARLY for status in state.statuses)
    return [
        head,
        *(f"  {line}" for line in lines),
        *([f"  stopped early: {stopped} of {len(state.trials)}"] if stopped else []),
        *([f"  importance: {shares}"] if shares else []),
        f"  train it again: {format_line(state, winners[0])}",
    ]


def _format_result(metric: MetricInfo, value: float) -> str:
    """Return a metric with its value; shares in percent, other values in enough digits to tell trials apart."""
    if metric.is_share:
        return f"{metric.name} {format_metric(metric, value)}"
    return f"{metric.name} {value:.6g}{f' {metric.unit}' if metric.unit else ''}"


def format_line(state: SearchState, number: int) -> str:
    """Return the command that trains a trial by itself."""
    return shlex.join(["dnntrain", *add_config_dir(state.search.config_dir, state.trials[number].words)])
