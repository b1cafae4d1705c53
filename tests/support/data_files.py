"""Small files and sources in the formats of the real ones."""

from __future__ import annotations

import gzip
import struct
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dnntrain.errors import DataError
from dnntrain.input.options import ImageData
from dnntrain.input.pipeline import InputPipeline, build_pipeline
from dnntrain.input.source import ArraySource, DataSet
from dnntrain.protocols import Batch, InputSpec, TargetSpec
from dnntrain.utils.world import World


def random_set(count: int = 61, channels: int = 1, size: int = 9) -> DataSet:
    """A data set of random bytes whose training and test split are the same."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8))
    source = ArraySource(images, np.arange(count) % 5, "random")
    shape = (channels, size, size)
    inputs = InputSpec(shape, (0.2, 0.4, 0.6)[:channels], (0.3, 0.5, 0.7)[:channels])
    return DataSet(source, source, inputs, TargetSpec(tuple("abcde")), "")


def pipeline(dataset: DataSet, options: ImageData, **changes: Any) -> InputPipeline:
    """A pipeline over the whole training split."""
    arguments: dict[str, Any] = {
        "seed": 3,
        "batch_size": 16,
        "micro_batch_size": 16,
        "world": World(),
        "device": "cpu",
        "channels_last": False,
        "transforms": (),
    }
    return build_pipeline(options, dataset, np.arange(len(dataset.train)), **{**arguments, **changes})


def epoch_of(feed: InputPipeline, epoch: int = 0) -> list[Batch]:
    """Copies of all micro-batches of one epoch; the pipeline is closed afterwards."""
    first = epoch * feed.steps_per_epoch
    batches = []
    for step in range(first, first + feed.steps_per_epoch):
        batches += [replace(micro, inputs=micro.inputs.clone()) for micro in feed.take(step).micro_batches]
    feed.close()
    return batches


def assert_same(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    """Bitwise the same examples, pixels and targets, in the same batches."""
    assert [batch.index.tolist() for batch in left] == [batch.index.tolist() for batch in right]
    assert [batch.position.tolist() for batch in left] == [batch.position.tolist() for batch in right]
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """`values` in the idx format."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, train: int = 40, test: int = 20, gzipped: bool = True) -> None:
    """The four files of a data set in the format of MNIST, 6x5 pixels, ten classes."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for prefix, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
            else:
                (folder / name).write_bytes(idx_bytes(values))


def write_images(folder: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 5, size: int = 10) -> list[Path]:
    """`count` PNG files in a folder for each class, of different noise."""
    paths = []
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            generator = np.random.default_rng([number, image, len(folder.name), ord(folder.name[0])])
            path = folder / name / f"{image:03}.png"
            Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
            paths.append(path)
    return paths


def write_masks(folder: Path, count: int = 5, size: int = 16, classes: int = 3) -> None:
    """`count` PNG files in images/, and masks of bands of the classes in masks/."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        mask = ((np.arange(size * size).reshape(size, size) + 5 * number) // (size * size // classes)) % classes
        pixels = np.repeat((60 * mask + number % 7)[:, :, None], 3, axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{number:03}.png")


def refusal(call: Callable[[], Any], *names: object) -> DataError:
    """The DataError that `call` raises, whose text holds each of `names`, with exit code 3 and a hint."""
    with pytest.raises(DataError) as caught:
        call()
    error = caught.value
    assert error.exit_code == 3
    assert error.hint
    for name in names:
        assert str(name) in str(error)
    return error


def adding(value: float) -> Callable[[Batch, Any], Batch]:
    """A batch transform's function that adds to all pixels."""

    def apply(batch: Batch, key: Any) -> Batch:
        batch.inputs = batch.inputs + value
        return batch

    return apply


def write_wav(path: Path, values: NDArray[np.float64], width: int = 2, rate: int = 8000, channels: int = 1) -> Path:
    """Write PCM of `width` bytes; `values` are in [-1, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scaled = np.round(values * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    scaled = np.repeat(scaled + (128 if width == 1 else 0), channels)
    data = scaled.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, len(values), "NONE", "not compressed"))
        file.writeframes(data)
    return path
