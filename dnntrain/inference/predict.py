"""Predictions of a trained model for image files: decoded by worker processes, computed in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.errors import DataError
from dnntrain.input.image_files import decoded, image_files

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.inference.load import Trained

#: Images computed at once. Small enough that the first rows appear soon, and that workers never wait long.
BATCH = 64

#: Fewer files than this are decoded here: starting processes would take longer.
_FEW = 256

OnError = Callable[[Path, DataError], None]


def predict_files(
    path: Path,
    images: Sequence[Path],
    top: int,
    on_error: OnError | None = None,
    *,
    overrides: Sequence[str] = (),
    trust: bool = False,
    workers: int | None = None,
    batch_size: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """For each image file: {"path", "class", "probability", "top": [[class, probability] …]}, in the order given.

    `path` is a run or an export. `on_error(file, DataError)` is called for a file that cannot be read, which is then left out; without
    it the error is raised. `workers` None: one for each core, none for few files. `progress(done, total)` is called after each batch.
    """
    from dnntrain.inference.load import load_trained

    trained = load_trained(path, overrides, trust)
    files = image_files(images)
    if workers is None:
        workers = 0 if len(files) < _FEW else cores()
    done = 0
    for batch in decoded(files, trained.input_shape, trained.mean, trained.std, batch_size=batch_size, workers=workers):
        for file, reason in batch.failed.items():
            error = DataError(reason, "remove or replace the file")
            if on_error is None:
                raise error
            on_error(file, error)
        if batch.files:
            yield from _rows(trained, batch.files, batch.images, top)
        done += len(batch.files) + len(batch.failed)
        if progress is not None:
            progress(done, len(files))


def _rows(trained: Trained, files: Sequence[Path], images: Tensor, top: int) -> Iterator[dict[str, Any]]:
    probabilities = trained.logits(images).float().softmax(1).cpu()
    best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    for file, values, classes in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
        ranked = [[trained.class_names[number], round(value, 6)] for number, value in zip(classes, values, strict=True)]
        yield {"path": str(file), "class": ranked[0][0], "probability": ranked[0][1], "top": ranked}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
