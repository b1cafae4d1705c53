"""Finish a run: the test metrics, the model in its portable form, the integer export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from dnntrain.errors import DataError
from dnntrain.input.unreadable import describe_skipped
from dnntrain.nn.attention_kernel import find_attention_kernel
from dnntrain.nn.language_module import find_language_module
from dnntrain.protocols import LOSS
from dnntrain.run.client_report import write_client_report
from dnntrain.run.final_model import FinalModel, build_final_model, calibrate_outputs, save_final_model
from dnntrain.run.outputs import write_integer_export
from dnntrain.training.evaluation import compute_predictions, describe_example
from dnntrain.training.evaluator import swap_in_eval_weights
from dnntrain.utils.sealed_json import write_sealed_json
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.run.directory import RunDirectory
    from dnntrain.run.result import RunResult
    from dnntrain.run.session import Session
    from dnntrain.training.trainer import Trainer

Say = Callable[[str], None]


def finish_run(
    session: Session,
    trainer: Trainer,
    directory: RunDirectory,
    result: RunResult,
    skipped: Mapping[str, str],
    say: Say,
    warn: Say,
) -> Iterator[RunResult]:
    """Test, save and export the trained model.

    This evaluates the test split once and writes evaluation.json, the model, and the export that
    `quant` asks for. Yields `result` with each figure as soon as it is known. `skipped` are the
    training examples that a rank could not read, with the reasons. Raises DataError if a test image
    cannot be read, after the model is written.
    """
    config = session.config
    final_model = build_final_model(session, trainer, directory)
    if final_model.digest is not None and result.figures is not None:
        result = replace(result, figures=replace(result.figures, digest=final_model.digest))
        yield result
    with swap_in_eval_weights(final_model.hooks.eval_weights, final_model.model):
        read_error: DataError | None = None
        session = calibrate_outputs(session, final_model)
        if config.eval.run_test and len(session.data.test):
            try:
                result = replace(result, test=_evaluate_test_split(session, trainer, final_model, directory))
                yield result
            except DataError as error:
                read_error = error
        write_client_report(session, trainer, final_model, directory)
        save_final_model(session, final_model, directory.path)
    if read_error is not None:
        raise DataError(
            f"{read_error.message}; the model is trained and written, but not tested",
            f"{read_error.hint}; then test it with: dnntrain eval {directory.path}",
        ) from None
    if config.quant.writes_export:
        yield replace(result, export=write_integer_export(directory.path, config, say, warn))
    # Validation examples are of the training source.
    reasons = [*skipped.values(), *session.data.dataset.test.failures.values()]
    if reasons:
        warn(describe_skipped(reasons))


def _evaluate_test_split(
    session: Session, trainer: Trainer, final_model: FinalModel, directory: RunDirectory
) -> dict[str, float]:
    """Evaluate the test split; write evaluation.json and a row of metrics, and return the figures."""
    config, test, task = session.config, session.data.dataset.test, session.config.task
    predictions = compute_predictions(
        task, final_model.model, final_model.outputs, trainer.make_batches(test, session.data.test, World())
    )
    summary = task.summarize(predictions, session.data.spec, config.log.worst_examples, partial(describe_example, test))
    samples = task.make_samples(final_model.model, session.data.spec, session.setup.device)
    evaluation = {"split": "test", **summary, **samples, **_name_kernel(session, final_model)}
    write_sealed_json(directory.path / "evaluation.json", evaluation)
    values = {info.name: evaluation[info.name] for info in task.list_infos()}
    threshold = session.data.spec.output.threshold
    row = {**values, "weights_step": final_model.step}
    trainer.metrics.write_row("test", trainer.loop.progress.step, row)
    test_values = {f"test_{metric.name}": values[metric.name] for metric in task.list_infos() if metric != LOSS}
    constants = {} if threshold is None else {"threshold": threshold}
    return {"value": values[config.eval.metric], **test_values, **constants}


def _name_kernel(session: Session, final_model: FinalModel) -> dict[str, str]:
    """Return the kernel of the attention of a language model; empty for other networks."""
    if find_language_module(final_model.model) is None:
        return {}
    setup = session.setup
    inputs = session.data.spec.inputs.make_zeros(1).to(setup.device)
    return {"attention_kernel": find_attention_kernel(final_model.model, inputs, setup.autocast)}
