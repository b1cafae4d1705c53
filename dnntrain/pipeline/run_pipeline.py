"""Make the stages of a prepared pipeline one after the other, measure their models, and report.

The same line again skips finished stages and resumes an interrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dnntrain.pipeline.certificate import write_certificate
from dnntrain.pipeline.check_stages import check_stages
from dnntrain.pipeline.display import StageDisplay
from dnntrain.pipeline.estimate import estimate_training_s, format_estimate
from dnntrain.pipeline.listing import compute_final_digest, write_listing
from dnntrain.pipeline.measure import measure_pipeline
from dnntrain.pipeline.page import write_pipeline_report
from dnntrain.pipeline.points import Measurements
from dnntrain.pipeline.prepare import Pipeline
from dnntrain.pipeline.stage_runs import StageRun, check_stale, read_stage_status, write_record
from dnntrain.run.directory import lock_folder
from dnntrain.sweep.grid import Combination
from dnntrain.sweep.prepare import prepare_trial
from dnntrain.sweep.train_trial import train_trial
from dnntrain.utils.json_files import format_json


@dataclass(frozen=True)
class PipelineResult:
    """A finished pipeline: the digest of its final model, its measured models, and its files."""

    folder: Path
    digest: str
    measurements: Measurements
    report: Path
    certificate: Path

    def as_json(self) -> str:
        value = {
            "folder": str(self.folder),
            "digest": self.digest,
            "report": str(self.report),
            "certificate": str(self.certificate),
            "points": [point.as_json() for point in self.measurements.points],
        }
        return format_json(value, indent=1)


def run_pipeline(pipeline: Pipeline, display_mode: str) -> PipelineResult:
    """Make every stage that is not done, and write the report and the certificate.

    Raises ConfigError if a finished stage is stale or a later one cannot be planned, Stopped on a signal, and the error of a stage
    that fails.
    """
    with lock_folder(pipeline.folder), StageDisplay(display_mode, len(pipeline.runs)) as display:
        check_stale(pipeline.runs)
        write_listing(pipeline)
        display.say(f"pipeline {pipeline.name} in {pipeline.folder}")
        check_stages(pipeline.runs, display.say)
        for number, run in enumerate(pipeline.runs, 1):
            _make_stage(pipeline, number, run, display)
        check_stale(pipeline.runs)
        digest = compute_final_digest(pipeline)
        measurements = measure_pipeline(pipeline, display.say)
        write_listing(pipeline, digest)
        report = write_pipeline_report(pipeline.folder, measurements)
        certificate = write_certificate(pipeline, measurements)
        display.say(f"final digest {digest}")
    return PipelineResult(pipeline.folder, digest, measurements, report, certificate)


def _make_stage(pipeline: Pipeline, number: int, run: StageRun, display: StageDisplay) -> None:
    """Train a stage, unless it is done, and record it."""
    status, step = read_stage_status(run)
    if status == "done":
        display.show_stage(number, run, "done already")
        return
    trial, _ = prepare_trial(number, Combination(run.words, run.words), run.config, run.folder)
    folders = [other.folder for other in pipeline.runs]
    seconds = estimate_training_s(trial.step_flops, max(trial.total_steps - step, 0), folders)
    steps = f"{trial.total_steps} steps" if trial.total_steps else str(run.config["train"]["duration"])
    resumed = f"resumed at step {step}, " if status == "broken off" and step else ""
    display.show_stage(number, run, f"{resumed}{steps}{format_estimate(seconds)}")
    train_trial(trial, pipeline.config_dir, partial(display.show_progress, run, trial), "pipeline")
    write_record(run, pipeline.code)
