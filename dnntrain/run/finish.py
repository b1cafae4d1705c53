"""Finish a run: the test metrics, the model in its portable form, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.checkpoint.portable_model import save_model
from dnntrain.choices.quant._post_training import FORMAT_OF_BACKEND
from dnntrain.config.decode import compute_digest
from dnntrain.errors import DataError
from dnntrain.nn.feature_capture import remove_adapters
from dnntrain.protocols import QuantChoice
from dnntrain.run.final_model import FinalModel, build_final_model
from dnntrain.training.evaluation import compute_predictions, describe_example
from dnntrain.training.evaluator import swap_in_eval_weights
from dnntrain.utils.files import write_json
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.result import RunResult
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer

Say = Callable[[str], None]


def finish_run(
    session: Session, trainer: Trainer, directory: RunDirectory, result: RunResult, say: Say, warn: Say
) -> Iterator[RunResult]:
    """Test, save, plot and export the trained model.

    This evaluates the test split once and writes evaluation.json, the model, curves.png,
    report.html, and the export that `quant` asks for. Yields `result` with each figure as soon as
    it is known. Raises DataError if a test image cannot be read, after the model is written.
    """
    config = session.config
    final_model = build_final_model(session, trainer, directory)
    if final_model.digest is not None and result.figures is not None:
        result = replace(result, figures=replace(result.figures, digest=final_model.digest))
        yield result
    with swap_in_eval_weights(final_model.hooks.eval_weights, final_model.model):
        read_error: DataError | None = None
        if config.eval.run_test and len(session.data.test):
            try:
                result = replace(result, test=_evaluate_test_split(session, trainer, final_model, directory))
                yield result
            except DataError as error:
                read_error = error
        _save_final_model(session, final_model, directory)
    if read_error is not None:
        raise DataError(
            f"{read_error.message}; the model is trained and written, but not tested",
            f"{read_error.hint}; then test it with: dnntrain eval {directory.path}",
        ) from None
    result = replace(result, status="done")
    yield result
    directory.write_result(result.as_json())
    trainer.metrics.close()
    _warn_of_skipped_examples(trainer, warn)
    if config.log.report:
        from dnntrain.report import write_curves, write_report

        write_curves(directory.path)
        write_report([directory.path], directory.path / "report.html")
    if config.quant.writes_export:
        from dnntrain.inference.run_args import custom_code_refs

        # Read from the files, as `dnntrain export` does: model and ranges are then the same on
        # every layout. The user's own code has run since the start, so it is trusted.
        trusted_code = custom_code_refs(config.resolved)
        export = export_quantized_model(directory.path, config.quant, say, warn, trusted_code)
        result = replace(result, export=export)
        yield result
        directory.write_result(result.as_json())


def _evaluate_test_split(
    session: Session, trainer: Trainer, final_model: FinalModel, directory: RunDirectory
) -> dict[str, float]:
    """Evaluate the test split; write evaluation.json and a row of metrics, and return the figures."""
    config, test, task = session.config, session.data.dataset.test, session.config.task
    predictions = compute_predictions(
        task, final_model.model, final_model.outputs, trainer.make_batches(test, session.data.test, World())
    )
    summary = task.summarize(predictions, session.data.spec, config.log.worst_examples, partial(describe_example, test))
    evaluation = {"split": "test", **summary}
    write_json(directory.path / "evaluation.json", evaluation)
    values = {info.name: evaluation[info.name] for info in task.list_infos()}
    row = {**values, "weights_step": final_model.step}
    trainer.metrics.write_row("test", trainer.loop.progress.step, row)
    test_values = {f"test_{metric.name}": values[metric.name] for metric in task.list_metrics()}
    return {"value": values[config.eval.metric], **test_values}


def _save_final_model(session: Session, final_model: FinalModel, directory: RunDirectory) -> None:
    """Write the network without training-only modules, and the metadata of the methods."""
    model, hooks, config = final_model.model, final_model.hooks, session.config
    remove_adapters(model)
    metadata = {name: value for make_metadata in hooks.export_metadata for name, value in make_metadata(model).items()}
    for transform in hooks.export_transforms:
        model = transform(model)
    save_model(
        model,
        directory.path,
        architecture=session.plan.model.name,
        spec=session.data.spec,
        model_args=dict(config.resolved["model"]),
        norm_args=dict(config.resolved["norm"]),
        extra={"dnntrain_config_digest": compute_digest(config.resolved), **metadata},
    )


def _warn_of_skipped_examples(trainer: Trainer, warn: Say) -> None:
    if skipped_examples := trainer.pipeline.get_skipped_examples():
        warn(
            f"{len(skipped_examples)} unreadable examples were skipped; "
            f"the first: {next(iter(skipped_examples.items()))}"
        )


def export_quantized_model(
    run: Path,
    quant: QuantChoice,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    trusted_code: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the export of a run's `quant` to exports/FORMAT, and return its entry in result.json.

    `say` receives progress, `warn` deviations from the request. `trusted_code` are the overrides
    that name the code of the run's model, if it has any and it may run.
    """
    from dnntrain.bench.fastest_export import export_fastest
    from dnntrain.inference.export_run import ExportSource, get_installed_format, summarize_export, write_export
    from dnntrain.inference.load import load_run
    from dnntrain.utils.hardware import probe_hardware

    loaded_model = load_run(run, trusted_code)
    if loaded_model.device != "cpu" and "pt2_cuda" not in quant.formats:
        say(f"the integer export runs on the processor, not on {loaded_model.device}; quant=float8 is for GPUs")
    subject = ExportSource.from_model(loaded_model)
    for note in subject.notes(quant):
        warn(f"note: {note}")
    if quant.backend == "auto":
        target = run / "exports" / "int8"
        cores = probe_hardware("cpu").cores
        card = export_fastest(
            subject, target, quant, batches=quant.timing_batch_sizes, threads=cores, quantized_only=True, say=say
        )
    else:
        format_name = FORMAT_OF_BACKEND.get(quant.backend, quant.formats[0])
        target = run / "exports" / format_name
        card = write_export(subject, get_installed_format(format_name), target, quant, say)
    say(f"integer export: {target}")
    return summarize_export(card, target)
