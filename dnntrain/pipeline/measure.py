"""Measure the models of a finished pipeline: the test metric with its interval, latency and size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnntrain.bench.candidates import can_run_on_cpu, make_candidates
from dnntrain.bench.measure import BenchResult, measure_candidates
from dnntrain.config.decode import decode_config
from dnntrain.errors import CheckpointError
from dnntrain.export.manifest import is_export, read_manifest
from dnntrain.inference.load import load_model
from dnntrain.pipeline.points import MEASUREMENTS_FILE, Measured, Measurements, Point, read_measurements
from dnntrain.pipeline.prepare import Pipeline
from dnntrain.pipeline.stage_runs import StageRun, read_record
from dnntrain.protocols import Metric, RowMetric
from dnntrain.prove.test_set_error import (
    ExampleSums,
    compute_sums_of_model,
    compute_value,
    find_task_metric,
    select_counts,
)
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.sealed_json import compute_json_digest, read_intact_json, write_sealed_json

BATCHES = (1, 64)
_ROUNDS, _BLOCK_S = 9, 0.2
_NUM_RESAMPLES = 1000
_Z = 1.959964  # quantile of the normal distribution for 95 %

Say = Callable[[str], None]


def measure_pipeline(pipeline: Pipeline, say: Say) -> Measurements:
    """Return the measurements of all stages, and write them; those of the same runs are used again."""
    models = {name: paths for stage in pipeline.definition.stages for name, paths in _list_models(pipeline, stage.name)}
    hardware = probe_hardware("cpu")
    machine = {"cpu": hardware.cpu_model, "features": list(hardware.cpu_features), "threads": hardware.cores}
    identity = compute_identity(pipeline, models, machine)
    saved = read_measurements(pipeline.folder)
    if saved is not None and saved.identity == identity:
        return saved
    config = decode_config(pipeline.final_run.config)
    info = next(info for info in config.task.list_infos() if info.name == config.eval.metric)
    say(f"evaluating the test split with {sum(map(len, models.values()))} models")
    metrics = {}
    for number, (name, paths) in enumerate(models.items(), 1):
        loaded = [load_model(path, ["device=cpu"] if is_on_cpu(path) else [], True) for path in paths]
        sums = [compute_sums_of_model(model, info.name) for model in loaded]
        metrics[name] = estimate_metric(sums, find_task_metric(config.task, info.name, loaded[0].spec))
        say(f"{number} of {len(models)}: {name}: {info.name} {metrics[name].value:.4f}")
    results = _time_models(models, BATCHES, True, say)
    points = tuple(
        _make_point(pipeline, name, paths, metrics[name], result)
        for (name, paths), result in zip(models.items(), results, strict=True)
    )
    measurements = Measurements(info, points, machine, identity)
    write_sealed_json(pipeline.folder / MEASUREMENTS_FILE, measurements.as_json())
    return measurements


def compute_identity(pipeline: Pipeline, models: Mapping[str, Sequence[Path]], machine: Mapping[str, Any]) -> str:
    """Return the digest of all that measurements depend on: the runs with their models, and the machine.

    The key of a run covers its configuration, so also the metric and the settings of the evaluation.
    """
    runs = [
        {"folder": run.folder.name, "key": run.key, "train_s": _read_train_s(run), "record": read_record(run.folder)}
        for run in pipeline.runs
    ]
    files = {
        name: [[str(path.relative_to(pipeline.folder)), _identify(path)] for path in paths]
        for name, paths in models.items()
    }
    return compute_json_digest({"runs": runs, "models": files, "machine": dict(machine), "batches": BATCHES})


def _list_models(pipeline: Pipeline, stage: str) -> Iterator[tuple[str, list[Path]]]:
    """Yield the name of each point of a stage, and its model for each seed."""
    runs = pipeline.list_runs(stage)
    yield stage, [run.folder for run in runs]
    for path in sorted((runs[0].folder / "exports").glob("*/")):
        if is_export(path):
            paths = [run.folder / "exports" / path.name for run in runs]
            yield f"{stage} {path.name}", [path for path in paths if is_export(path)]


def _identify(path: Path) -> object:
    if is_export(path):
        return read_manifest(path).files
    return read_intact_json(path / "result.json").get("digest")


def is_on_cpu(path: Path) -> bool:
    """Return whether a model runs on the processor: a run, or an export of such a format."""
    return not is_export(path) or can_run_on_cpu(path)


def measure_latencies(path: Path, batches: Sequence[int], *, trust: bool, say: Say) -> dict[int, Measured]:
    """Return the milliseconds of a call of one model by batch size."""
    return read_latencies(_time_models({path.name: [path]}, batches, trust, say)[0])


def _time_models(
    models: Mapping[str, Sequence[Path]], batches: Sequence[int], trust: bool, say: Say
) -> list[BenchResult]:
    candidates = []
    for name, paths in models.items():
        made = make_candidates([paths[0]], runtimes=("eager",), with_exports=False, trust=trust)
        candidates.append(replace(made[0], name=name))
    skipped: list[str] = []
    results = measure_candidates(
        candidates,
        batches,
        threads=probe_hardware("cpu").cores,
        rounds=_ROUNDS,
        seconds=_BLOCK_S,
        should_evaluate=False,
        say=say,
        skip=skipped.append,
    )
    if len(results) < len(models):
        raise CheckpointError(f"not all models could be timed: {'; '.join(skipped)}")
    return results


def _make_point(pipeline: Pipeline, name: str, paths: Sequence[Path], metric: Measured, result: BenchResult) -> Point:
    stage, _, form = name.partition(" ")
    runs = pipeline.list_runs(stage)
    first = runs[0]
    source = stage if form else next((run.stage for run in first.inputs.values()), None)
    return Point(
        name=name,
        stage=stage,
        source=source,
        form=form or "float32",
        path=str(paths[0].relative_to(pipeline.folder)),
        metric=metric,
        latency_ms=read_latencies(result),
        size_bytes=int(result.load_info["size_bytes"]),
        train_s=sum(map(_read_train_s, runs)),
        total_s=sum(
            _read_train_s(run) for run in pipeline.runs if run.stage in pipeline.definition.list_sources(stage)
        ),
        seeds=len(runs),
    )


def read_latencies(result: BenchResult) -> dict[int, Measured]:
    """Return the median over rounds of the milliseconds of a call, by batch size."""
    latencies = {}
    for batch in result.rates:
        interval = result.call_ms(batch)
        latencies[batch] = Measured(interval.median, interval.low, interval.high)
    return latencies


def _read_train_s(run: StageRun) -> float:
    value = read_intact_json(run.folder / "result.json").get("train_s")
    return float(value) if isinstance(value, int | float) else 0.0


def estimate_metric(sums: Sequence[ExampleSums], metric: Metric | RowMetric | None) -> Measured:
    """Return the metric with its 95 % interval over test sets and seeds.

    `sums` are those of each seed; metric None means the loss. A share of examples of one
    seed gets Wilson's interval (1927); else examples, and seeds if there are several, are drawn
    again with replacement, and the interval is between the 2.5 and 97.5 percentiles.
    """
    value = float(
        np.mean([compute_value(item.values, np.ones(len(item.index), dtype=np.int64), metric) for item in sums])
    )
    if len(sums) == 1 and isinstance(metric, Metric) and metric.is_share and _is_binary(sums[0].values, metric, value):
        return compute_wilson_interval(value, len(sums[0].index))
    total = sums[0].total
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(_NUM_RESAMPLES):
        counts = generator.multinomial(total, np.full(total, 1 / total))
        seeds = generator.integers(0, len(sums), len(sums))
        chosen = [sums[seed] for seed in seeds]
        samples.append(np.mean([compute_value(item.values, select_counts(counts, item), metric) for item in chosen]))
    low, high = np.percentile(samples, (2.5, 97.5))
    return Measured(value, float(low), float(high))


def _is_binary(sums: NDArray[np.float64], metric: Metric, value: float) -> bool:
    """Return whether the metric is the share of examples that count as 1."""
    values = np.array([metric.value(row) for row in sums.tolist()])
    return bool(np.isin(values, (0.0, 1.0)).all() and abs(values.mean() - value) < 1e-9)


def compute_wilson_interval(share: float, count: int) -> Measured:
    """Return a share of `count` examples with Wilson's 95 % interval."""
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z / (1 + _Z**2 / count) * float(np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)))
    return Measured(share, max(0.0, center - reach), min(1.0, center + reach))
