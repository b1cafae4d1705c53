"""Choose the runs of a large sweep that its page shows, from their results alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dnntrain.protocols import LOSS
from dnntrain.report.load_run import read_metric_infos
from dnntrain.report.untrusted_files import parse_number, read_data

#: The most runs of a page.
MAX_RUNS = 40


def select_best_runs(paths: Sequence[Path]) -> tuple[list[Path], str]:
    """Return the 40 runs with the best validation value, in their order, and a note; all runs if they are fewer.

    The metric is that of the first run with a result. A run without a value of this metric is chosen last.
    """
    if len(paths) <= MAX_RUNS:
        return list(paths), ""
    results = [read_data(path / "result.json", []) for path in paths]
    judged = next((number for number, result in enumerate(results) if "metric" in result), 0)
    name = results[judged].get("metric")
    infos = read_metric_infos(read_data(paths[judged] / "plan.json", []))
    metric = next((info for info in infos if info.name == name), LOSS)
    values = [
        metric.sign * parse_number(result.get("best")) if result.get("metric") == name else math.nan
        for result in results
    ]
    order = sorted(range(len(paths)), key=lambda number: (not math.isfinite(values[number]), -values[number]))
    shown = [paths[number] for number in sorted(order[:MAX_RUNS])]
    return shown, f"The {MAX_RUNS} of {len(paths)} runs with the best validation {metric.name} are shown."
