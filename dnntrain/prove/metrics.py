"""Read the value of a finished run that is compared: a metric of its task, or a measured figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.utils.sealed_json import read_sealed_json
from dnntrain.utils.suggest import did_you_mean

LATENCY = MetricInfo("latency_ms", unit="ms")
#: Figures that every run has, besides the metrics of its task.
FIGURES = (
    LATENCY,
    MetricInfo("examples_per_s", higher_is_better=True, unit="1/s"),
    MetricInfo("size_bytes", unit="bytes"),
)

#: Differences of a share within it count as none, unless --margin says otherwise.
DEFAULT_SHARE_MARGIN = 0.002


def choose_metric(name: str | None, default: str, infos: Sequence[MetricInfo]) -> MetricInfo:
    """Return the metric called `name`, or the run's own.

    Raises ConfigError with the nearest name if neither the task nor a run has it.
    """
    known = {info.name: info for info in (*infos, *FIGURES)}
    if (name or default) not in known:
        raise ConfigError(
            f"--metric {name} must be one of {', '.join(known)}", did_you_mean(name or default, list(known))
        )
    return known[name or default]


#: The split of the values that are compared.
ValueSplit = Literal["test", "val"]


def choose_split(runs: Sequence[Path], metric: MetricInfo) -> ValueSplit:
    """Return the split on which all runs are compared: test if every run was tested, else val."""
    if metric.name in {figure.name for figure in FIGURES}:
        return "test"
    return "test" if all(metric.name in read_sealed_json(run / "evaluation.json") for run in runs) else "val"


def describe_split(runs: Sequence[Path], metric: MetricInfo) -> tuple[str, ...]:
    """Return a note if the runs are not compared on the test split."""
    if choose_split(runs, metric) == "test":
        return ()
    return ("Not every run was tested: the values are the best ones on the validation split of each run.",)


def read_value(run: Path, metric: MetricInfo, split: ValueSplit) -> float:
    """Return the value of the finished run on `split`: on val the best one.

    Raises CheckpointError if the run does not have it.
    """
    result = read_sealed_json(run / "result.json")
    if metric.name == "size_bytes":
        return float((run / "model.safetensors").stat().st_size)
    value = (
        result.get("examples_per_s")
        if metric.name == "examples_per_s"
        else _read_task_metric(run, result, metric, split)
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(
            f"{run} has no {metric.name} on the {split} split",
            "train it with eval.run_test=true, or name another metric",
        )
    return float(value)


def _read_task_metric(run: Path, result: Mapping[str, Any], metric: MetricInfo, split: ValueSplit) -> Any:
    if split == "test":
        return read_sealed_json(run / "evaluation.json").get(metric.name)
    return result.get("best") if result.get("metric") == metric.name else None


def read_pair(
    runs: tuple[Path, Path], metric: MetricInfo, trust: bool, split: ValueSplit | None = None
) -> tuple[float, float]:
    """Return the values of a pair of finished runs; a latency is measured, so it differs each time.

    Without `split` it is the one that both runs have. Raises ConfigError if a metric of the task was
    computed on other data.
    """
    if metric.name == LATENCY.name:
        first, second = measure_latencies(runs, trust)
        return first, second
    split = split or choose_split(runs, metric)
    if metric not in FIGURES:
        _check_same_data(runs, split)
    return read_value(runs[0], metric, split), read_value(runs[1], metric, split)


def _check_same_data(runs: tuple[Path, Path], split: ValueSplit) -> None:
    """Raise ConfigError if the runs have other classes, other outputs, or test splits of different sizes."""
    data = [read_sealed_json(run / "plan.json").get("data", {}) for run in runs]
    evaluations = [read_sealed_json(run / "evaluation.json") for run in runs]
    facts = {
        "other outputs": [item.get("output_shape") for item in data],
        "other classes": [item.get("class_names") for item in evaluations],
        "test splits of different sizes": [item.get("test") if split == "test" else None for item in data],
    }
    for text, (first, second) in facts.items():
        if None not in (first, second) and first != second:
            names = " and ".join(str(item.get("name")) for item in data)
            raise ConfigError(
                f"{runs[0]} and {runs[1]} cannot be compared because their data ({names}) have {text}",
                "compare runs on the same data, or name a figure: --metric size_bytes",
            )


def measure_latencies(runs: Sequence[Path], trust: bool) -> list[float]:
    """Return the median milliseconds for one example of each run's model, timed side by side.

    The model of a run with exports is its export. A program is an export only with `trust`.
    """
    from dnntrain.bench.candidates import make_candidates
    from dnntrain.bench.measure import measure_candidates
    from dnntrain.bench.statistics import compute_percentiles
    from dnntrain.utils.hardware import probe_hardware

    candidates = [make_candidates([run], runtimes=("eager",), trust=trust)[-1] for run in runs]
    results = measure_candidates(
        candidates,
        [1],
        threads=probe_hardware("cpu").cores,
        rounds=9,
        seconds=0.1,
        should_evaluate=False,
        say=lambda text: None,
    )
    if len(results) < len(runs):
        raise CheckpointError("the models of a pair cannot be timed", "dnntrain bench RUN names the reason")
    return [1000 * compute_percentiles(result.latencies[1])["p50"] for result in results]
