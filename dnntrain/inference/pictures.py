"""Predict for pictures from Python: files, Pillow images, or lists of both."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dnntrain.errors import DataError
from dnntrain.inference.load import LoadedModel
from dnntrain.inference.predict import BATCH_SIZE, check_reads_pictures, make_row
from dnntrain.input.decode import decode_picture
from dnntrain.input.image_files import read_file
from dnntrain.input.normalize import make_normalizer
from dnntrain.protocols.audio_reading import AudioReading

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | PathLike[str] | Image


def preprocess_pictures(loaded_model: LoadedModel, pictures: Sequence[Picture]) -> Tensor:
    """Return the inputs of the model, float32 [n, channels, height, width], as `dnntrain predict` does."""
    inputs = loaded_model.spec.inputs
    check_reads_pictures(inputs)
    rows = [_read_picture(loaded_model, picture).flatten() for picture in pictures]
    if not rows:
        return torch.empty(0, *inputs.shape)
    normalize = make_normalizer(inputs, "cpu", channels_last=False)
    bytes_by_row = torch.stack(rows)
    return normalize(bytes_by_row, torch.empty(bytes_by_row.shape, dtype=torch.float32))


def predict_pictures(loaded_model: LoadedModel, pictures: Sequence[Picture], top: int) -> list[dict[str, Any]]:
    """Return a row of `dnntrain predict` for each picture; a picture without a file has no `path`."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(pictures), BATCH_SIZE):
        batch = pictures[start : start + BATCH_SIZE]
        outputs = loaded_model.compute_outputs(preprocess_pictures(loaded_model, batch))
        predictions = loaded_model.config.task.format_predictions(outputs, loaded_model.spec, top)
        for picture, prediction in zip(batch, predictions, strict=True):
            path = {"path": str(picture)} if isinstance(picture, str | PathLike) else {}
            rows.append(make_row(path, prediction))
    return rows


def _read_picture(loaded_model: LoadedModel, picture: Picture) -> Tensor:
    """Return the bytes of a picture at the size of the input, with the channels of a pixel adjacent."""
    channels, height, width = loaded_model.spec.inputs.shape
    reading = loaded_model.config.data.reading
    if isinstance(picture, str | PathLike):
        image = read_file(Path(picture).expanduser(), channels, (height, width), reading)
    elif isinstance(reading, AudioReading):
        raise DataError(f"a sound must be the path of a WAV file, not {type(picture).__name__}", "write it to a file")
    else:
        from PIL.Image import Image

        if not isinstance(picture, Image):
            raise DataError(
                f"a picture must be a path or a Pillow image, not {type(picture).__name__}",
                "make one with PIL.Image.fromarray(array)",
            )
        image = decode_picture(picture, channels, (height, width), reading)
    return image.permute(1, 2, 0)
