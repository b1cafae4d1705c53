"""Write certificate.json beside the final model of a pipeline: its measurements, and of which files they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dnntrain import __version__
from dnntrain.checkpoint.digests import compute_file_digest
from dnntrain.errors import ConfigError
from dnntrain.export.manifest import is_export, read_manifest
from dnntrain.inference.load import load_model
from dnntrain.pipeline.points import Measurements, Point
from dnntrain.pipeline.prepare import Pipeline
from dnntrain.pipeline.stage_runs import read_record
from dnntrain.prove.metrics import choose_split, read_pair
from dnntrain.prove.run_prove import ProveOptions
from dnntrain.prove.verdict import judge_differences
from dnntrain.run.environment import collect_environment
from dnntrain.utils.sealed_json import read_intact_json, write_sealed_json

CERTIFICATE_FILE = "certificate.json"
#: The files of a run's model that a certificate covers.
_RUN_FILES = ("model.safetensors", "config.json", "config.yaml")


def write_certificate(pipeline: Pipeline, measurements: Measurements) -> Path:
    """Write the certificate beside the last point of the pipeline, and return its path."""
    stage = pipeline.definition.final.name
    point = [point for point in measurements.points if point.stage == stage][-1]
    folder = pipeline.folder / point.path
    path = folder / CERTIFICATE_FILE
    write_sealed_json(path, _make_certificate(pipeline, measurements, point, folder))
    return path


def _make_certificate(pipeline: Pipeline, measurements: Measurements, point: Point, folder: Path) -> dict[str, Any]:
    environment = collect_environment()
    details = read_manifest(folder).details if is_export(folder) else {}
    loaded = load_model(pipeline.final_run.folder, trust=True)
    return {
        "schema": 1,
        "dnntrain": __version__,
        "pipeline": pipeline.name,
        "model": point.name,
        "form": point.form,
        "files": {name: compute_file_digest(folder / name) for name in list_files(folder)},
        "code": {"digest": pipeline.code, "packages": environment["packages"], "git": environment["git"]},
        "data": dict(loaded.trained_data),
        "metric": {
            "name": measurements.metric.name,
            "higher_is_better": measurements.metric.higher_is_better,
            "unit": measurements.metric.unit,
            "split": "test",
            "value": point.metric.as_json(),
        },
        "latency_ms": {str(batch): value.as_json() for batch, value in point.latency_ms.items()},
        "size_bytes": point.size_bytes,
        "train_s": point.total_s,
        "machine": dict(measurements.machine),
        "integers": find_census(details),
        "stages": [_describe_stage(run.folder, run.stage, run.key) for run in pipeline.runs],
        "verdicts": list(_judge_stages(pipeline, measurements)),
    }


def _judge_stages(pipeline: Pipeline, measurements: Measurements) -> Iterator[dict[str, Any]]:
    """Yield the verdict on each stage against its source.

    Both need the same data, and as many seeds, more than one.
    """
    rules = ProveOptions().make_rules(measurements.metric)
    for stage in pipeline.definition.stages:
        runs = pipeline.list_runs(stage.name)
        for source in dict.fromkeys(stage.inputs.values()):
            source_runs = pipeline.list_runs(source)
            if len(runs) != len(source_runs) or len(runs) < 2:
                continue
            split = choose_split([run.folder for run in (*source_runs, *runs)], measurements.metric)
            try:
                pairs = [
                    read_pair((a.folder, b.folder), measurements.metric, trust=True, split=split)
                    for a, b in zip(source_runs, runs, strict=True)
                ]
            except ConfigError:
                continue  # a teacher may be trained on other data
            verdict = judge_differences([b - a for a, b in pairs], rules)
            yield {"a": source, "b": stage.name, **verdict.as_json()}


def list_files(folder: Path) -> list[str]:
    """Return the files that a certificate covers: those of the export, or of the run's model."""
    if is_export(folder):
        return [*sorted(read_manifest(folder).files), "manifest.json"]
    return [name for name in _RUN_FILES if (folder / name).is_file()]


def find_census(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the count of integer operations of an export's details; empty if it has none."""
    return {key: value for key, value in details.items() if key == "census"}


def _describe_stage(folder: Path, stage: str, key: str) -> dict[str, Any]:
    record, result = read_record(folder), read_intact_json(folder / "result.json")
    return {
        "stage": stage,
        "key": key,
        "seed": record.get("seed"),
        "config": record.get("config"),
        "weights": record.get("weights"),
        "metric": result.get("metric"),
        "value": result.get("value"),
        "train_s": result.get("train_s"),
    }
