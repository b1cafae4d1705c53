"""Load a trained model from its run directory or from an export, to evaluate it or to predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnntrain.checkpoint.portable_model import parse_model_spec
from dnntrain.choices.quant._fake_quant import apply_ranges
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config, load_config
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.collectives import reduce_sum
from dnntrain.errors import CheckpointError, ConfigError, DataError
from dnntrain.export.formats import detect_hardware, get_format, resolve_device
from dnntrain.export.manifest import compute_sha256
from dnntrain.export.open_export import RunnerModule, is_export, open_export
from dnntrain.export.rebuild import build_network, get_choice, has_name_option
from dnntrain.inference.option_values import SPLITS
from dnntrain.input.pipeline import read_evaluation_batches
from dnntrain.input.source import DataSet, Source
from dnntrain.input.split import prepare_data
from dnntrain.protocols import Batch, ModelSpec
from dnntrain.training.evaluation import evaluate
from dnntrain.utils.files import read_json
from dnntrain.utils.hardware import get_default_threads, get_device_type, get_torch_device, probe_hardware, use_threads
from dnntrain.utils.rng import Index
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.threads import read_saved_threads
from dnntrain.utils.world import World


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its training configuration, and a description of its inputs.

    `autocast` is the precision of its arithmetic, if it differs from the precision of the weights.
    `format` is the format of an export, or "run".
    """

    config: RunConfig
    model: nn.Module
    spec: ModelSpec
    device: str
    autocast: torch.dtype | None
    format: str = "run"

    @torch.no_grad()
    def compute_outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs [n, …] for inputs [n, …] in the form of the training inputs."""
        with torch.autocast(
            get_device_type(self.device), self.autocast or torch.bfloat16, enabled=self.autocast is not None
        ):
            outputs: torch.Tensor = self.model(inputs.to(self.device))
        return outputs

    def compute_batch_outputs(self, batch: Batch) -> torch.Tensor:
        """Return the outputs [n, …] for a batch."""
        return self.compute_outputs(batch.inputs)


def load_model(path: Path, overrides: Sequence[str] = (), trust: bool = False) -> LoadedModel:
    """Load the model of a run directory, of an export's folder or of a model file.

    `overrides` may choose another data set or device. Raises ConfigError if `path` is none of
    these, CheckpointError if a file is missing, damaged or not trusted.
    """
    return load_export(path, overrides, trust) if is_export(path) else load_run(path, overrides)


def load_run(path: Path, overrides: Sequence[str] = ()) -> LoadedModel:
    """Load the model of the run directory `path`.

    Raises ConfigError if it is not a run, CheckpointError if the model is unusable.
    """
    from dnntrain.inference.run_args import check_run, check_trusted

    check_run(path)
    card = read_json(path / "config.json")
    try:
        spec = parse_model_spec(card)
    except ValueError as error:
        problem = f"damaged: {error}" if card else "missing or damaged"
        raise CheckpointError(
            f"{path} holds no finished model: config.json is {problem}",
            f"finish it with: dnntrain resume {path}",
        ) from None
    check_trusted(load_config(path / "config.yaml"), path, overrides)
    _check_sha256(path / "model.safetensors", card.get("dnntrain", {}).get("sha256"))
    config = _compose_config(path, overrides)
    _check_output(config, spec, path / "config.json")
    model = build_network(config.model, config.norm, path, spec)
    if ranges := card.get("dnntrain", {}).get("quantized_ranges"):
        model = _add_rounding(model, spec.inputs.shape, ranges, path)
    hardware = probe_hardware(config.device)
    policy = config.precision.build(hardware)
    device = get_torch_device(config.device, hardware, World())
    if threads := read_saved_threads(read_json(path / "plan.json"), get_default_threads()):
        use_threads(threads)
    return LoadedModel(
        config=config,
        model=model.to(device).eval(),
        spec=spec,
        device=device,
        autocast=policy.torch_dtype,
    )


def _check_sha256(file: Path, expected_sha256: str | None) -> None:
    """Check that config.json has the checksum of the weights. Raises CheckpointError if not."""
    if expected_sha256 is None or not file.is_file():
        return
    if (actual_sha256 := compute_sha256(file)) != expected_sha256:
        raise CheckpointError(
            f"{file} is damaged: it differs from the file that the run wrote (SHA-256 {actual_sha256[:12]}…, not "
            f"{expected_sha256[:12]}…)",
            "restore it from a copy, or train the run again",
        )


def _check_output(config: RunConfig, spec: ModelSpec, file: Path) -> None:
    """Check that the class names and the output of `spec` belong together. Raises CheckpointError if not."""
    output = config.task.build(spec.inputs, spec.targets)
    if output.shape != spec.output.shape:
        raise CheckpointError(
            f"{file} is damaged: its {spec.targets.describe()} do not fit an output of the shape {list(spec.output.shape)}",
            "restore it from a copy, or train the run again",
        )


def _add_rounding(model: nn.Module, shape: tuple[int, int, int], ranges: Any, path: Path) -> nn.Module:
    """Return `model` with the integer rounding that it was trained with."""
    try:
        return apply_ranges(model, shape, ranges)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{path / 'config.json'}: the ranges of the quantized model are damaged ({error})", "train the run again"
        ) from None


def load_export(path: Path, overrides: Sequence[str] = (), trust: bool = False) -> LoadedModel:
    """Load the model of an export.

    Its configuration is data: code that it names runs only if `overrides` name it too.
    """
    from dnntrain.inference.run_args import check_trusted

    export_files = open_export(path, trust)
    card = export_files.manifest
    if card.format == "safetensors":
        check_trusted(card.config, path, overrides)
    config = decode_config(compose_from_export(card.config, overrides))
    has_device = any(word.lstrip("+").startswith("device=") for word in overrides)
    device_name = resolve_device(get_format(card.format), config.device, has_device)
    hardware = detect_hardware(device_name)
    device = get_torch_device(device_name, hardware, World())
    policy = config.precision.build(hardware) if card.format == "safetensors" else None
    return LoadedModel(
        config=config,
        model=RunnerModule(export_files.load(device)).eval(),
        spec=card.spec,
        device=device,
        autocast=None if policy is None else policy.torch_dtype,
        format=card.format,
    )


@dataclass(frozen=True)
class DataSplit:
    """Examples of one split, in the form of the model's inputs."""

    name: str
    dataset: DataSet
    source: Source
    index: Index

    def make_batches(self, loaded_model: LoadedModel, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the first `limit` examples, or all, in order, on the model's device, without augmentation."""
        return read_evaluation_batches(
            loaded_model.config.data,
            # The model keeps its own normalization, also for another data set.
            replace(self.dataset, inputs=loaded_model.spec.inputs),
            self.source,
            self.index if limit is None else self.index[:limit],
            batch_size=batch_size,
            world=World(),
            device=loaded_model.device,
            channels_last=False,
        )


def load_data_splits(loaded_model: LoadedModel) -> dict[str, DataSplit]:
    """Return the splits train, val and test of the configured data set.

    Raises DataError if the data does not fit the model.
    """
    dataset = loaded_model.config.data.build()
    spec = loaded_model.spec
    output = loaded_model.config.task.build(dataset.inputs, dataset.targets)
    if output.shape != spec.output.shape or dataset.inputs.shape != spec.inputs.shape:
        raise DataError(
            f"the data set has {dataset.targets.describe()} of {dataset.inputs.shape}, "
            f"the model {spec.targets.describe()} of {spec.inputs.shape}",
            "evaluate on data of the same form",
        )
    data = prepare_data(loaded_model.config, dataset)
    return {
        "train": DataSplit("train", dataset, dataset.train, data.train),
        "val": DataSplit("val", dataset, dataset.train, data.val),
        "test": DataSplit("test", dataset, dataset.test, data.test),
    }


def check_split(name: str) -> str:
    """Return `name` if it is a split. Raises ConfigError with the nearest one if not."""
    if name not in SPLITS:
        raise ConfigError(f"split {name!r} is not one of {', '.join(SPLITS)}", did_you_mean(name, SPLITS))
    return name


def evaluate_run(path: Path, overrides: Sequence[str], split: str, trust: bool = False) -> dict[str, float | int]:
    """Evaluate a run or an export on `split`, in eval mode, without augmentation.

    Returns the loss, the metrics of the task, and the number of examples.
    """
    loaded_model = load_model(path, overrides, trust)
    data_split = load_data_splits(loaded_model)[split]
    if not len(data_split.index):
        raise DataError(f"the {split} split is empty", "choose another --split, or set data.val_fraction")
    batches = data_split.make_batches(loaded_model, loaded_model.config.eval.batch_size)
    return evaluate(
        loaded_model.config.task,
        loaded_model.spec,
        loaded_model.model,
        loaded_model.compute_batch_outputs,
        batches,
        reduce_sum,
        loaded_model.device,
    )


def _compose_config(path: Path, overrides: Sequence[str]) -> RunConfig:
    """Return the run's configuration; `overrides` apply after the run's own."""
    if not overrides:
        return decode_config(load_config(path / "config.yaml"))
    check_effect(overrides)
    from dnntrain.inference.run_args import merge_saved_overrides

    return decode_config(compose(*merge_saved_overrides(path, overrides)))


#: The keys of a configuration that an export keeps: its data, its network and their precision.
EXPORTED_KEYS = ("task", "data", "model", "norm", "precision", "eval", "seed", "device")

#: Groups and sections that apply to training only, except `train.max_examples`, which selects the data.
_TRAINING_KEYS = (
    "optim",
    "sched",
    "augment",
    "reg",
    "average",
    "monitor",
    "track",
    "train",
    "parallel",
    "launch",
    "cluster",
    "distill",
    "checkpoint",
    "log",
    "quant",
    "prune",
    "init_from",
)

#: The groups of an export.
_GROUPS = ("task", "data", "model", "norm", "precision")


def check_effect(overrides: Sequence[str]) -> None:
    """Check that `overrides` affect a trained model.

    Raises ConfigError for settings of the training.
    """
    for word in overrides:
        key = word.lstrip("+").split("=")[0]
        if key.split(".")[0] in _TRAINING_KEYS and key != "train.max_examples":
            raise ConfigError(
                f"{word} has no effect on a trained model",
                "its data, device, precision and evaluation can be set, as in eval.batch_size=64",
            )


def select_export_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a resolved configuration that an export needs, without training options."""
    choices = {group: config["choices"][group] for group in _GROUPS}
    return {**{key: config[key] for key in EXPORTED_KEYS}, "choices": choices}


def compose_from_export(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Compose a full configuration from an export's part, with other data or another device.

    Options that a later version of dnntrain added keep their defaults. Raises ConfigError for a key
    that an export cannot change.
    """
    for word in overrides:
        if word.lstrip("+").split("=")[0].split(".")[0] not in EXPORTED_KEYS or word.startswith("model="):
            raise ConfigError(
                f"{word} cannot be set for an export", "its data, device and evaluation can, as in data.root=FOLDER"
            )
    given_keys = {word.lstrip("+").split("=")[0] for word in overrides}
    words = [f"seed={config['seed']}", f"device={config['device']}", *_format_overrides("eval", config["eval"])]
    for group in _GROUPS:
        if group not in given_keys:
            choice = get_choice(config, group)
            options = {
                key: value for key, value in config[group].items() if key != "name" or has_name_option(group, choice)
            }
            words += [f"{group}={choice}", *_format_overrides(group, options)]
    return compose([*(word for word in words if word.split("=")[0] not in given_keys), *overrides], None)


def _format_overrides(prefix: str, values: Mapping[str, Any]) -> list[str]:
    """Return overrides that set every value of a section."""
    import json

    return [f"{prefix}.{key}={json.dumps(value)}" for key, value in values.items()]
