"""Predict for image files, which worker processes decode, for the rows of tables, or for texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.errors import DataError
from dnntrain.inference.mask_writer import MaskWriter, check_predicts_masks
from dnntrain.input.audio import SOUND_SUFFIXES
from dnntrain.input.data_files import find_image_files
from dnntrain.input.decode import IMAGE_SUFFIXES
from dnntrain.input.image_files import decode_in_batches
from dnntrain.protocols import ColumnKind, InputKind, InputSpec
from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.utils.hardware import count_cores

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.inference.load import LoadedModel

#: Images in one batch. Small enough that the first rows appear soon and workers do not wait long.
BATCH_SIZE = 64

#: Suffixes of the files of a folder of texts.
TEXT_SUFFIXES = (".txt", ".md")

#: Below this number of files, this process decodes them: starting workers would take longer.
_MIN_FILES_FOR_WORKERS = 256

ErrorCallback = Callable[[Path, DataError], None]


def predict_files(
    path: Path,
    images: Sequence[Path],
    top: int,
    on_error: ErrorCallback | None = None,
    *,
    overrides: Sequence[str] = (),
    trust: bool = False,
    workers: int | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
    masks: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a prediction for each image file, or for each row of each table, in the order given.

    A prediction is {"path", …} with the values of `Task.format_predictions`: for classes "class",
    "probability" and "top": [[class, probability] …]. Those of a table also have "row", from 1 on.
    `path` is a run or an export. If a file cannot be read, `on_error(file, DataError)` is called and the file
    is skipped; without `on_error` the error is raised. `workers` None: one for each core, none for
    few files. `progress(done, total)` is called after each batch. In the folder `masks` a PNG of each
    image's mask is written, whose path the prediction has as "mask"; the task must predict pixels.
    """
    from dnntrain.inference.load import load_model

    loaded_model = load_model(path, overrides, trust)
    if masks is not None:
        check_predicts_masks(masks, loaded_model)
    if loaded_model.spec.inputs.columns:
        yield from _predict_tables(loaded_model, images, top, on_error, batch_size)
        return
    if loaded_model.spec.inputs.vocabulary is not None:
        yield from _predict_texts(loaded_model, images, top, on_error, batch_size)
        return
    check_reads_pictures(loaded_model.spec.inputs)
    reading = loaded_model.config.data.reading
    suffixes = SOUND_SUFFIXES if isinstance(reading, AudioReading) else IMAGE_SUFFIXES
    files = find_image_files(images, suffixes)
    write_masks = None if masks is None else MaskWriter(masks, loaded_model, files)
    if workers is None:
        workers = 0 if len(files) < _MIN_FILES_FOR_WORKERS else count_cores()
    done, inputs = 0, loaded_model.spec.inputs
    for batch in decode_in_batches(
        files,
        inputs,
        batch_size=batch_size,
        workers=workers,
        reading=reading,
    ):
        for file, reason in batch.failures.items():
            error = DataError(reason, "remove or replace the file")
            if on_error is None:
                raise error
            on_error(file, error)
        if batch.files:
            yield from _make_rows(loaded_model, batch.files, batch.images, top, write_masks)
        done += len(batch.files) + len(batch.failures)
        if progress is not None:
            progress(done, len(files))


def make_row(facts: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction: the facts of its example, then the values of the task.

    A value with the name of a fact, such as a target `path`, becomes `predicted_path`.
    """
    row = dict(facts)
    for name, value in values.items():
        free_name = name
        while free_name in row or (free_name != name and free_name in values):
            free_name = f"predicted_{free_name}"
        row[free_name] = value
    return row


def check_reads_pictures(inputs: InputSpec) -> None:
    """Raise DataError if the model reads no pictures, or pictures of other channels than files have."""
    if inputs.kind is not InputKind.IMAGES:
        kind, example = ("tables", "rows.csv") if inputs.kind is InputKind.TABLE else ("texts", "text.txt")
        raise DataError(f"the model reads {kind}, not pictures", f"use dnntrain.predict(RUN, '{example}')")
    if inputs.shape[0] not in (1, 3):
        raise DataError(
            f"the model reads images of {inputs.shape[0]} channels, and a file is read as 1 or 3",
            "call the network with arrays, in Python: dnntrain.load(RUN).model(inputs)",
        )


def _predict_tables(
    loaded_model: LoadedModel, files: Sequence[Path], top: int, on_error: ErrorCallback | None, batch_size: int
) -> Iterator[dict[str, Any]]:
    import torch

    from dnntrain.input.normalize import make_normalizer
    from dnntrain.input.table_columns import encode_rows
    from dnntrain.input.table_file import read_table

    inputs = loaded_model.spec.inputs
    texts = [column.name for column in inputs.columns if column.kind is ColumnKind.CATEGORY]
    normalize = make_normalizer(inputs, "cpu", channels_last=False)
    for file in files:
        try:
            rows = torch.from_numpy(encode_rows(read_table(file, texts), inputs))
        except DataError as error:
            if on_error is None:
                raise
            on_error(file, error)
            continue
        number = 0
        for part in torch.split(rows, batch_size):
            outputs = loaded_model.compute_outputs(normalize(part, torch.empty_like(part)))
            for row in loaded_model.config.task.format_predictions(outputs, loaded_model.spec, top):
                number += 1
                yield make_row({"path": str(file), "row": number}, row)


def _predict_texts(
    loaded_model: LoadedModel, files: Sequence[Path], top: int, on_error: ErrorCallback | None, batch_size: int
) -> Iterator[dict[str, Any]]:
    import torch

    from dnntrain.input.document_source import encode_text
    from dnntrain.input.text_files import find_text_files, read_text_file

    rows: list[Tensor] = []
    kept: list[Path] = []
    for file in [text_file for path in files for text_file in find_text_files(path, TEXT_SUFFIXES)]:
        try:
            row = encode_text(read_text_file(file), loaded_model.spec, str(file))
        except DataError as error:
            if on_error is None:
                raise
            on_error(file, error)
            continue
        rows.append(torch.from_numpy(row))
        kept.append(file)
    for first in range(0, len(rows), batch_size):
        outputs = loaded_model.compute_outputs(torch.cat(rows[first : first + batch_size]))
        results = loaded_model.config.task.format_predictions(outputs, loaded_model.spec, top)
        for file, values in zip(kept[first : first + batch_size], results, strict=True):
            yield make_row({"path": str(file)}, values)


def _make_rows(
    loaded_model: LoadedModel, files: Sequence[Path], inputs: Tensor, top: int, write_masks: MaskWriter | None
) -> Iterator[dict[str, Any]]:
    outputs = loaded_model.compute_outputs(inputs)
    rows = loaded_model.config.task.format_predictions(outputs, loaded_model.spec, top)
    masks = [{}] * len(files) if write_masks is None else write_masks(files, outputs)
    for file, row, mask in zip(files, rows, masks, strict=True):
        yield make_row({"path": str(file), **mask}, row)
