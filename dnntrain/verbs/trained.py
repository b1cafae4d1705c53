"""A finished run as something to use: its model, its metrics on a split, its predictions for images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode, load_config
from dnntrain.config.run import RunConfig
from dnntrain.data.images import IMAGE_SUFFIXES, read_image
from dnntrain.data.pipeline import evaluation_batches
from dnntrain.data.shaping import centre_part
from dnntrain.errors import CheckpointError, DataError
from dnntrain.evaluation import evaluate
from dnntrain.hardware import detect
from dnntrain.model.shape import ModelShape
from dnntrain.model.weights import load_weights
from dnntrain.parallel.communicate import reduce_sum
from dnntrain.parallel.spmd import SpmdExecutor
from dnntrain.protocols import Batch
from dnntrain.run_directory import read_json
from dnntrain.session import prepare_data, torch_device
from dnntrain.verbs.arguments import Arguments
from dnntrain.world import World

#: Images predicted at once.
_PREDICT_BATCH = 256


@dataclass(frozen=True)
class Trained:
    """A run's model in eval mode, its configuration and what its input looks like."""

    config: RunConfig
    model: nn.Module
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    autocast: torch.dtype | None

    def outputs(self, batch: Batch) -> torch.Tensor:
        """The outputs [n, classes], in the precision of the run."""
        kind = self.device.split(":")[0]
        executor = SpmdExecutor(self.model, lambda outputs, batch: outputs.logits, device=kind, autocast=self.autocast)
        return executor.outputs(batch)


def load_run(path: Path, overrides: Sequence[str] = ()) -> Trained:
    """The model of the run directory `path`. `overrides` may choose another data set, device or precision.

    Raises ConfigError where `path` is no run, CheckpointError where the model is missing or damaged.
    """
    from dnntrain.verbs.resume import check_run, check_trusted

    check_run(path)
    card = read_json(path / "config.json")
    pretrained = card.get("pretrained_cfg")
    names = card.get("label_names")
    if not isinstance(pretrained, dict) or not isinstance(names, list):
        raise CheckpointError(
            f"{path} holds no finished model: config.json is missing or damaged",
            f"finish it with: dnntrain resume {path}",
        )
    check_trusted(load_config(path / "config.yaml"), path, overrides)
    config = _config_with(path, overrides)
    channels, height, width = (int(size) for size in pretrained["input_size"])
    model = config.norm.exported(config.model.build(ModelShape(len(names), channels, height, width)))
    load_weights(model, str(path / "model.safetensors"), replace_head=False)
    hardware = detect(config.device)
    policy = config.precision.build(hardware)
    device = torch_device(config.device, hardware, World())
    return Trained(
        config=config,
        model=model.to(device).eval(),
        class_names=tuple(str(name) for name in names),
        input_shape=(channels, height, width),
        mean=tuple(float(value) for value in pretrained["mean"]),
        std=tuple(float(value) for value in pretrained["std"]),
        device=device,
        autocast=getattr(torch, policy.autocast) if policy.autocast else None,
    )


def evaluate_run(path: Path, overrides: Sequence[str], split: str) -> dict[str, float | int]:
    """loss, accuracy and examples of the run's model on `split`, in eval mode, without augmentation."""
    trained = load_run(path, overrides)
    dataset = trained.config.data.build()
    if len(dataset.class_names) != len(trained.class_names) or dataset.input_shape != trained.input_shape:
        raise DataError(
            f"the data set has {len(dataset.class_names)} classes of {dataset.input_shape}, "
            f"the model {len(trained.class_names)} of {trained.input_shape}",
            "evaluate on data of the same classes and size",
        )
    data = prepare_data(trained.config, dataset)
    parts = {
        "train": (dataset.train, data.train),
        "val": (dataset.train, data.val),
        "test": (dataset.test, data.test),
    }
    source, index = parts[split]
    if not len(index):
        raise DataError(f"the {split} part is empty", "choose another split=, or set data.val_fraction")
    batches = evaluation_batches(
        trained.config.data,
        # The model knows its own normalisation only, whatever that of another data set is.
        replace(dataset, mean=trained.mean, std=trained.std),
        source,
        index,
        batch_size=trained.config.eval.batch_size,
        world=World(),
        device=trained.device,
        channels_last=False,
    )
    return evaluate(trained.model, trained.outputs, batches, reduce_sum, trained.device)


def predict_files(path: Path, images: Sequence[Path], top: int, on_error: Any = None) -> Iterator[dict[str, Any]]:
    """For each image file: {"path", "class", "probability", "top": [[class, probability] …]}, in the order given.

    `on_error(file, DataError)` is called for a file that cannot be read, which is then left out; without it the error is raised.
    """
    trained = load_run(path)
    files = image_files(images)
    for start in range(0, len(files), _PREDICT_BATCH):
        yield from _predict_batch(trained, files[start : start + _PREDICT_BATCH], top, on_error)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The image files among `paths`, folders searched through. Raises DataError where one is missing or none is found."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(
                file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES
            )
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist", "give image files, or folders that hold some")
    if not files:
        raise DataError(f"no image in {', '.join(map(str, paths))}", f"formats: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


@torch.no_grad()
def _predict_batch(trained: Trained, files: Sequence[Path], top: int, on_error: Any) -> Iterator[dict[str, Any]]:
    channels, height, width = trained.input_shape
    kept, tensors = [], []
    for file in files:
        try:
            tensors.append(read_image(file, channels, lambda picture: centre_part(picture, height, width)))
            kept.append(file)
        except DataError as error:
            if on_error is None:
                raise
            on_error(file, error)
    if not kept:
        return
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (trained.mean, trained.std))
    pixels = ((torch.stack(tensors).float() / 255 - mean) / std).to(trained.device)
    index = np.arange(len(kept))
    batch = Batch(pixels, torch.zeros(len(kept), dtype=torch.int64), index, index)
    probabilities = trained.outputs(batch).float().softmax(1).cpu()
    best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    for file, values, classes in zip(kept, best.values.tolist(), best.indices.tolist(), strict=True):
        ranked = [[trained.class_names[number], round(value, 6)] for number, value in zip(classes, values, strict=True)]
        yield {"path": str(file), "class": ranked[0][0], "probability": ranked[0][1], "top": ranked}


def _config_with(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration; where there are overrides, composed anew with them after its own."""
    if not overrides:
        return decode(load_config(path / "config.yaml"))
    from dnntrain.verbs.resume import replayed

    again = replayed(path, Arguments(overrides=tuple(overrides)))
    return decode(compose(again.overrides, again.config_dir))
