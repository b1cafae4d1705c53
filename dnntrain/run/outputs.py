"""Make the files of a finished run that its model does not depend on: tables, pictures, report, integer export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnntrain.choices.quant._backends import get_backend_format
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import CheckpointError
from dnntrain.export.manifest import read_manifest
from dnntrain.protocols import QuantChoice
from dnntrain.run.directory import RunDirectory
from dnntrain.run.result import RunResult

Say = Callable[[str], None]

#: The files of the model. Without them a run is finished again from its last checkpoint.
MODEL_FILES = ("model.safetensors", "config.json")


def list_missing_outputs(folder: Path, config: RunConfig) -> list[str]:
    """Return the names of the files that a finished run lacks, or that describe an earlier end of it."""
    missing = [] if _has_export(folder, config.quant) else [str(get_export_folder(folder, config.quant))]
    return [*missing, *_list_stale_files(folder, config.log.report)]


def make_missing_outputs(
    directory: RunDirectory, config: RunConfig, result: RunResult, say: Say, warn: Say
) -> RunResult:
    """Make the missing files of a finished run, and return its result with the export.

    A kill, or a full disk, may have ended the process after the run was done. result.json stays as
    it is if one of the files cannot be made.
    """
    folder = directory.path
    if not _has_export(folder, config.quant):
        result = replace(result, export=write_integer_export(folder, config, say, warn))
        directory.write_result(result.as_json())
    names = _list_stale_files(folder, config.log.report)
    if "results.csv" in names:
        from dnntrain.training.metrics_writer import write_csv

        write_csv(folder / "metrics.jsonl", folder / "results.csv")
    if "report.html" in names or "curves.png" in names:
        from dnntrain.report import write_curves, write_report

        write_curves(folder)
        write_report([folder], folder / "report.html")
    return result


def write_integer_export(run: Path, config: RunConfig, say: Say, warn: Say) -> dict[str, Any]:
    """Write the export that the run's `quant` asks for, and return its entry in result.json."""
    # Read from the files, as `dnntrain export` does: model and ranges are then the same on every
    # layout. The user's own code has run since the start, so it is trusted.
    return export_quantized_model(run, config.quant, say, warn, trust=True)


def _list_stale_files(folder: Path, has_report: bool) -> list[str]:
    """Return the files that are missing, or older than the file that they are made from."""
    sources = {"results.csv": "metrics.jsonl"}
    if has_report:
        sources |= {"curves.png": "result.json", "report.html": "result.json"}
    return [name for name, source in sources.items() if _is_older(folder / name, folder / source)]


def _is_older(file: Path, source: Path) -> bool:
    """Return whether `source` exists and is newer than `file`, which may be missing."""
    if not source.is_file():
        return False
    return not file.is_file() or file.stat().st_mtime_ns < source.stat().st_mtime_ns


def _has_export(run: Path, quant: QuantChoice) -> bool:
    """Return whether the export of `quant`, if it writes one, is complete."""
    if not quant.writes_export:
        return True
    target = get_export_folder(run, quant)
    try:
        return all((target / name).is_file() for name in read_manifest(target).files)
    except CheckpointError:
        return False


def get_export_folder(run: Path, quant: QuantChoice) -> Path:
    """Return the folder of the export that `quant` writes at the end of the run."""
    name = "int8" if quant.backend == "auto" else get_backend_format(quant.backend, quant.formats[0])
    return run / "exports" / name


def export_quantized_model(
    run: Path,
    quant: QuantChoice,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    trust: bool = False,
) -> dict[str, Any]:
    """Write the export of a run's `quant` to exports/FORMAT, and return its entry in result.json.

    `say` receives progress, `warn` deviations from the request. `trust` lets the
    run use the code that it names.
    """
    from dnntrain.bench.fastest_export import export_fastest
    from dnntrain.inference.export_run import ExportSource, get_installed_format, summarize_export, write_export
    from dnntrain.inference.load import load_run
    from dnntrain.utils.hardware import probe_hardware

    loaded_model = load_run(run, trust=trust)
    if loaded_model.device != "cpu" and "pt2_cuda" not in quant.formats:
        say(f"the integer export runs on the processor, not on {loaded_model.device}; quant=float8 is for GPUs")
    subject = ExportSource.from_model(loaded_model)
    for note in subject.notes(quant):
        warn(f"note: {note}")
    target = get_export_folder(run, quant)
    if quant.backend == "auto":
        cores = probe_hardware("cpu").cores
        card = export_fastest(
            subject, target, quant, batches=quant.timing_batch_sizes, threads=cores, quantized_only=True, say=say
        )
    else:
        card = write_export(subject, get_installed_format(target.name), target, quant, say)
    say(f"integer export: {target}")
    return summarize_export(card, target)
