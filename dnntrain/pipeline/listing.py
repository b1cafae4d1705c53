"""The list of a pipeline's runs: pipeline.json in its folder, and the texts of --plan and --status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dnntrain.checkpoint.digests import compute_bytes_digest
from dnntrain.pipeline.prepare import Pipeline
from dnntrain.pipeline.stage_runs import StageRun, digest_exports, find_stale, read_record, read_stage_status
from dnntrain.report.format import format_short
from dnntrain.utils.json_files import format_json
from dnntrain.utils.sealed_json import read_intact_json, read_sealed_json, write_sealed_json
from dnntrain.utils.units import format_seconds

LIST_FILE = "pipeline.json"


def is_pipeline_folder(path: Path) -> bool:
    """Return whether `path` is the folder of a pipeline."""
    try:
        return (path / LIST_FILE).is_file()
    except (OSError, ValueError):
        return False


def write_listing(pipeline: Pipeline, digest: str | None = None) -> None:
    """Write pipeline.json: each run with its key and folder; `digest` of the final model if it is made."""
    rows = [
        {
            "stage": run.stage,
            "seed": run.config["seed"],
            "folder": run.folder.name,
            "key": run.key,
            "inputs": {option: source.folder.name for option, source in run.inputs.items()},
        }
        for run in pipeline.runs
    ]
    value = {
        "schema": 1,
        "name": pipeline.name,
        "runs": rows,
        "final": pipeline.final_run.folder.name,
        "digest": digest,
    }
    write_sealed_json(pipeline.folder / LIST_FILE, value)


def read_listing(folder: Path) -> dict[str, Any]:
    """Return pipeline.json. Raises CheckpointError if it was altered."""
    return read_sealed_json(folder / LIST_FILE, "run the pipeline's command again")


def compute_final_digest(pipeline: Pipeline) -> str:
    """Return the SHA-256 of the weights of the last stage and of its exported model files.

    Manifests do not count, because they hold measured times.
    """
    parts = []
    for run in pipeline.list_runs(pipeline.definition.final.name):
        parts.append(str(read_record(run.folder).get("weights")))
        parts += [part for item in digest_exports(run.folder).items() for part in item]
    return compute_bytes_digest("\n".join(parts).encode())


def format_plan(pipeline: Pipeline, as_json: bool) -> str:
    """Return the stages in order: sources, status, and the settings of each."""
    rows = [_describe_run(run) for run in pipeline.runs]
    if as_json:
        return format_json({"name": pipeline.name, "folder": str(pipeline.folder), "runs": rows}, indent=1)
    lines = [f"pipeline {pipeline.name} in {pipeline.folder}"]
    for number, (run, row) in enumerate(zip(pipeline.runs, rows, strict=True), 1):
        source = "".join(f", {option} from {source.label}" for option, source in run.inputs.items())
        lines.append(f"{number:>3}. {run.label} ({row['status']}){source}: {run.folder.name}")
        if run.number == 0:
            lines.append(
                f"     {' '.join(word for word in run.words if not word.startswith(('name=', 'init_from=', 'distill.teacher=')))}"
            )
    return "\n".join(lines)


def format_status(pipeline: Pipeline, as_json: bool) -> str:
    """Return a line for each run: its status, metric and time. Names runs with stale inputs."""
    rows = [_describe_run(run) for run in pipeline.runs]
    stale = find_stale(pipeline.runs)
    digest = read_listing(pipeline.folder).get("digest")
    if as_json:
        value = {"name": pipeline.name, "folder": str(pipeline.folder), "runs": rows, "stale": stale, "digest": digest}
        return format_json(value, indent=1)
    num_done = sum(row["status"] == "done" for row in rows)
    width = max(len(run.label) for run in pipeline.runs)
    lines = [f"pipeline {pipeline.name} in {pipeline.folder}: {num_done} of {len(rows)} done"]
    for run, row in zip(pipeline.runs, rows, strict=True):
        figures = [f"{row['metric']} {format_short(row['value'])}"] if row["value"] is not None else []
        figures += [format_seconds(row["train_s"])] if row["train_s"] is not None else []
        step = f" at step {row['steps']}" if row["status"] == "broken off" else ""
        lines.append(f"  {run.label:<{width}}  {row['status']}{step}  {', '.join(figures)}".rstrip())
    return "\n".join([*lines, *stale, *([f"final digest {digest}"] if digest else [])])


def _describe_run(run: StageRun) -> dict[str, Any]:
    status, steps = read_stage_status(run)
    result = read_intact_json(run.folder / "result.json") if status == "done" else {}
    return {
        "stage": run.stage,
        "seed": run.config["seed"],
        "status": status,
        "steps": steps,
        "metric": result.get("metric"),
        "value": result.get("value"),
        "train_s": result.get("train_s"),
        "key": run.key,
        "folder": str(run.folder),
        "words": list(run.words),
    }
