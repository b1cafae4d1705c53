"""Describe trials in a few words, and find the best ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnntrain.display.base import format_metric
from dnntrain.sweep.sweep_directory import Trial, TrialStatus
from dnntrain.utils.units import format_seconds, pluralize


def list_best(trials: Sequence[Trial], statuses: Sequence[TrialStatus]) -> list[int]:
    """Return the indices of the finished trials with the best value on the validation split.

    None if fewer than two have one, or if they have different metrics.
    """
    values = {
        index: trials[index].info.sign * status.best
        for index, status in enumerate(statuses)
        if status.is_done and status.best is not None and not math.isnan(status.best)
    }
    if len(values) < 2 or len({trials[index].info for index in values}) > 1:
        return []
    best = max(values.values())
    return [index for index, value in values.items() if value == best]


def describe_progress(trial: Trial, status: TrialStatus) -> str:
    """Return the progress of a running trial: `step 200 of 600, val accuracy 0.6319`."""
    total = f" of {trial.total_steps}" if trial.total_steps else ""
    metric = f", val {trial.metric} {format_value(trial, status.metric)}" if status.metric is not None else ""
    return f"step {status.step}{total}{metric}"


def summarize_trial(trial: Trial, status: TrialStatus) -> str:
    """Return the steps and figures of a trial in a few words."""
    phrases = [pluralize(status.step, "step")]
    if status.best is not None:
        phrases.append(f"val {trial.metric} {format_value(trial, status.best)}")
    if status.value is not None:
        phrases.append(f"test {trial.metric} {format_value(trial, status.value)}")
    if status.wall_s is not None:
        phrases.append(format_seconds(status.wall_s))
    return ", ".join(phrases)


def format_value(trial: Trial, value: float | None) -> str:
    """Return a value of the metric of a trial; empty if there is none."""
    return "" if value is None else format_metric(trial.info, value)
