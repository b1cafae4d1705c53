"""Cross-validation: one run for each part of the training split, and one table of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.config.digest import compute_digest
from dnntrain.config.run_config import RunConfig
from dnntrain.run.directory import make_run_folder
from dnntrain.run.result import RunResult
from dnntrain.utils.files import FOLDS_FILE
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.student_t import compute_t_quantile

TrainFold = Callable[[RunConfig, Sequence[str]], RunResult]


@dataclass(frozen=True)
class FoldSummary:
    """A metric over the folds: its values, their mean, and the bounds of its 95 % interval."""

    name: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float


def cross_validate(
    config: RunConfig, train_fold: TrainFold, overrides: Sequence[str], say: Callable[[str], None]
) -> RunResult:
    """Train `config.folds` runs in FOLDER/fold-K, and write FOLDER/folds.json.

    The same command again continues: folds that are done are not trained again.
    """
    assert config.folds is not None
    folder = (
        Path(config.run_dir).expanduser().absolute()
        if config.run_dir
        else make_run_folder(Path("runs").absolute(), config.name)
    )
    results = []
    for fold in range(config.folds):
        say(f"fold {fold + 1} of {config.folds}")
        results.append(train_fold(select_fold(config, fold, folder / f"fold-{fold}"), [*overrides, f"fold={fold}"]))
    names = [name for name, value in results[0].test.items() if isinstance(value, float) and name != "value"]
    summaries = [summarize_folds(name, [float(result.test[name]) for result in results]) for name in names]
    means: dict[str, Any] = {summary.name: summary.mean for summary in summaries}
    value = means.get(f"test_{config.eval.metric}")
    write_sealed_json(
        folder / FOLDS_FILE,
        {
            "status": "done",
            **_sum_up(config, results),
            "value": value,
            "folds": config.folds,
            "metrics": [vars(summary) for summary in summaries],
        },
    )
    for line in format_table(summaries):
        say(line)
    return RunResult("done", str(folder), test={"value": value, **means})


def _sum_up(config: RunConfig, results: Sequence[RunResult]) -> dict[str, Any]:
    """Return the keys of a result.json for all runs together: `best` is their mean, `steps` and `wall_s` their sum."""
    figures = [result.figures for result in results if result.figures is not None]
    bests = [item.best for item in figures if item.best is not None]
    return {
        "config_digest": compute_digest(config.resolved),
        "metric": config.eval.metric,
        "best": math.fsum(bests) / len(bests) if bests else None,
        "steps": sum(item.steps for item in figures),
        "wall_s": round(math.fsum(item.wall_s for item in figures), 3),
    }


def select_fold(config: RunConfig, fold: int, run_dir: Path) -> RunConfig:
    """Return the configuration of the run that is tested on part `fold`."""
    values = {"fold": fold, "run_dir": str(run_dir)}
    return replace(config, resolved={**config.resolved, **values}, fold=fold, run_dir=str(run_dir))


def summarize_folds(name: str, values: Sequence[float]) -> FoldSummary:
    """Return mean and 95 % interval of `values`.

    The training sets of two folds overlap, so their values are not independent. The variance of the mean
    is therefore s² (1 / k + test / training examples) = s² (1 / k + 1 / (k - 1)), with Student's t of
    k - 1 degrees of freedom (Nadeau and Bengio, "Inference for the generalization error", 2003).
    """
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = compute_t_quantile(0.975, count - 1) * math.sqrt(variance * (1 / count + 1 / (count - 1)))
    return FoldSummary(name, tuple(values), mean, mean - reach, mean + reach)


def format_table(summaries: Sequence[FoldSummary]) -> list[str]:
    """Return the lines of a table: each fold, the mean and the 95 % interval."""
    count = len(summaries[0].values) if summaries else 0
    head = ["metric", *(f"fold {fold}" for fold in range(count)), "mean", "95 % interval"]
    rows = [
        [
            summary.name.removeprefix("test_"),
            *(f"{value:.4f}" for value in summary.values),
            f"{summary.mean:.4f}",
            f"{summary.low:.4f} to {summary.high:.4f}",
        ]
        for summary in summaries
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
