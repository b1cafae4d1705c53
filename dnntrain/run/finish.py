"""The end of a run: the test figure, the model in its portable form, the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.checkpoint.save_portable_model import save_model
from dnntrain.choices.quant._post_training import FORMAT_OF_BACKEND, PostTraining
from dnntrain.errors import DataError
from dnntrain.nn.feature_capture import remove_adapters
from dnntrain.run.final_model import Whole, whole_network
from dnntrain.training.evaluation import predict, summary
from dnntrain.training.evaluator import applied
from dnntrain.utils.files import write_json
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer


def finish(
    session: Session,
    trainer: Trainer,
    directory: RunDirectory,
    result: dict[str, Any],
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Evaluates the test split once, writes evaluation.json, the model, curves.png, report.html, and the export that `quant` asks for.

    Raises DataError where a test image cannot be read; the model is written all the same.
    """
    config, dataset = session.config, session.data.dataset
    whole = whole_network(session, trainer, directory)
    if whole.digest is not None:
        result["digest"] = whole.digest
    with applied(whole.parts.evaluation, whole.model):
        unread: DataError | None = None
        if config.eval.test and len(session.data.test):
            try:
                _test(session, trainer, whole, directory, result)
            except DataError as error:
                unread = error
        model = whole.model
        remove_adapters(model)
        written = {name: value for found in whole.parts.card for name, value in found(model).items()}
        for transform in whole.parts.export:
            model = transform(model)
        save_model(
            model,
            directory.path,
            architecture=session.plan.model.name,
            label_names=dataset.class_names,
            input_shape=dataset.input_shape,
            mean=dataset.mean,
            std=dataset.std,
            model_args=dict(config.resolved["model"]),
            extra={"dnntrain_config_digest": result.get("config_digest", ""), **written},
        )
    if unread is not None:
        raise DataError(
            f"{unread.message}; the model is trained and written, but not tested",
            f"{unread.hint}; then test it with: dnntrain eval {directory.path}",
        ) from None
    result["status"] = "done"
    directory.write_result(result)
    trainer.metrics.close()
    if skipped := trainer.pipeline.skipped():
        warn(f"{len(skipped)} unreadable examples were skipped; the first: {next(iter(skipped.items()))}")
    if config.log.report:
        from dnntrain.report import write_curves, write_report

        write_curves(directory.path)
        write_report([directory.path], directory.path / "report.html")
    if isinstance(config.quant, PostTraining) and getattr(config.quant, "backend", "") != "none":
        from dnntrain.inference.run_args import code_of

        # From the files, as `dnntrain export` does: so it is the same model and the same ranges on every layout. Code of the
        # user's own has been run all along.
        trusted = code_of(config.resolved)
        result["export"] = export_quantised(directory.path, config.quant, say, warn, trusted)
        directory.write_result(result)


def _test(session: Session, trainer: Trainer, whole: Whole, directory: RunDirectory, result: dict[str, Any]) -> None:
    """Evaluates the test split: evaluation.json, a row of metrics, and the figures of `result`."""
    config, dataset = session.config, session.data.dataset
    predictions = predict(whole.model, whole.outputs, trainer.batches_of(dataset.test, session.data.test, World()))
    evaluation = summary(predictions, "test", dataset, dataset.test, config.log.samples)
    write_json(directory.path / "evaluation.json", evaluation)
    values = {name: evaluation[name] for name in ("loss", "accuracy")}
    trainer.metrics.write("test", trainer.loop.progress.step, values)
    result["value"] = values[config.eval.metric]
    result["test_accuracy"] = values["accuracy"]


def export_quantised(
    run: Path,
    quant: PostTraining,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    trusted: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the export that a run's `quant` asks for to exports/FORMAT of its directory; returns what is noted in result.json.

    `say` is told how it goes on, `warn` what is not as it was asked for.
    `trusted`: what names the code of the run's model, if it has any, where that may be run.
    """
    from dnntrain.bench.fastest_export import export_fastest
    from dnntrain.inference.export_run import Subject, export, format_of, report
    from dnntrain.inference.load import load_run
    from dnntrain.utils.hardware import detect

    loaded = load_run(run, trusted)
    if loaded.device != "cpu" and "pt2_cuda" not in quant.formats:
        say(f"the integer export runs on the processor, not on {loaded.device}; quant=float8 is for GPUs")
    subject = Subject.of(loaded)
    for note in subject.notes(quant):
        warn(f"note: {note}")
    backend = getattr(quant, "backend", "")
    if backend == "auto":
        target = run / "exports" / "int8"
        cores = detect("cpu").cores
        card = export_fastest(
            subject, target, quant, batches=quant.measured_batches, threads=cores, quantised_only=True, say=say
        )
    else:
        wanted = FORMAT_OF_BACKEND.get(backend, quant.formats[0])
        target = run / "exports" / wanted
        card = export(subject, format_of(wanted), target, quant, say)
    say(f"integer export: {target}")
    return report(card, target)
