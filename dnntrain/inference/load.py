"""Load a trained model from its run directory or from an export, to evaluate it or to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnntrain.checkpoint.model_card import parse_model_spec, read_card
from dnntrain.checkpoint.model_spec import decode_trained_data
from dnntrain.checkpoint.portable_model import check_weights_digest
from dnntrain.choices.quant._fake_quant import apply_ranges
from dnntrain.config.compose import compose
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.export.formats import detect_hardware, get_format, resolve_device
from dnntrain.export.manifest import is_export
from dnntrain.export.open_export import RunnerModule, open_export
from dnntrain.export.rebuild import build_network
from dnntrain.inference.data_root import remove_places, restore_data_root
from dnntrain.inference.export_shapes import check_shapes
from dnntrain.inference.run_args import MODEL_GROUPS, check_card, check_run, decode_foreign, open_run_config
from dnntrain.protocols import Batch, ModelSpec
from dnntrain.utils.hardware import get_default_threads, get_device_type, get_torch_device, probe_hardware, use_threads
from dnntrain.utils.sealed_json import read_sealed_json
from dnntrain.utils.threads import read_saved_threads
from dnntrain.utils.world import World


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its training configuration, and a description of its inputs.

    `autocast` is the precision of its arithmetic, if it differs from the precision of the weights.
    `format` is the format of an export, or "run". `trained_data` are the digest and the sizes of the
    data of the training; empty if they are unknown.
    """

    config: RunConfig
    model: nn.Module
    spec: ModelSpec
    device: str
    autocast: torch.dtype | None
    format: str = "run"
    trained_data: Mapping[str, Any] = field(default_factory=dict)

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


def load_model(
    path: Path, overrides: Sequence[str] = (), trust: bool = False, world: World | None = None
) -> LoadedModel:
    """Load the model of a run directory, of an export's folder or of a model file.

    `overrides` may choose another data set or device, and `world` has the rank whose GPU is taken. Raises
    ConfigError if `path` is none of these, CheckpointError if a file is missing, damaged or not trusted.
    """
    load = load_export if is_export(path) else load_run
    return load(path, overrides, trust, world)


def load_run(path: Path, overrides: Sequence[str] = (), trust: bool = False, world: World | None = None) -> LoadedModel:
    """Load the model of the run directory `path`.

    Raises ConfigError if it is not a run, CheckpointError if the model is unusable.
    """
    check_run(path)
    check_effect(overrides)
    check_card(path)
    card = read_card(path)
    spec = parse_model_spec(card)
    config = open_run_config(path, overrides, trust=trust)
    check_weights_digest(path / "model.safetensors", card)
    _check_output(config, spec, path / "config.json")
    model = build_network(config.model, config.norm, path, spec)
    if ranges := card["dnntrain"].get("quantized_ranges"):
        model = _add_rounding(model, spec.inputs.shape, ranges, path)
    hardware = probe_hardware(config.device)
    policy = config.precision.build(hardware)
    device = get_torch_device(config.device, hardware, world or World())
    if threads := read_saved_threads(read_sealed_json(path / "plan.json"), get_default_threads()):
        use_threads(threads)
    return LoadedModel(
        config=config,
        model=model.to(device).eval(),
        spec=spec,
        device=device,
        autocast=policy.torch_dtype,
        trained_data=decode_trained_data(card["dnntrain"].get("data")),
    )


def _check_output(config: RunConfig, spec: ModelSpec, file: Path) -> None:
    """Check that the class names and the output of `spec` belong together. Raises CheckpointError if not."""
    output = config.task.build(spec.inputs, spec.targets)
    if output.shape != spec.output.shape:
        raise CheckpointError(
            f"{file} is damaged: its {spec.targets.describe()} do not fit an output of the shape {list(spec.output.shape)}",
            "restore it from a copy, or train the run again",
        )


def _add_rounding(model: nn.Module, shape: tuple[int, ...], ranges: Any, path: Path) -> nn.Module:
    """Return `model` with the integer rounding that it was trained with."""
    try:
        return apply_ranges(model, shape, ranges)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{path / 'config.json'}: the ranges of the quantized model are damaged ({error})", "train the run again"
        ) from None


def load_export(
    path: Path, overrides: Sequence[str] = (), trust: bool = False, world: World | None = None
) -> LoadedModel:
    """Load the model of an export.

    Its configuration is data: code that it names runs only if `overrides` name it too.
    """
    export_files = open_export(path)
    export_files.check_trust(trust)
    card = export_files.manifest
    # Other formats hold the network themselves, and do not build the model of the configuration.
    builds_model = get_format(card.format).builds_model
    groups = MODEL_GROUPS if builds_model else ("task", "data")
    container = compose_from_export(restore_data_root(card.config, path), overrides)
    config = decode_foreign(container, path, overrides, trust=trust, groups=groups)
    has_device = any(word.lstrip("+").startswith("device=") for word in overrides)
    device_name = resolve_device(get_format(card.format), config.device, has_device)
    hardware = detect_hardware(device_name)
    device = get_torch_device(device_name, hardware, world or World())
    policy = config.precision.build(hardware) if builds_model else None
    _check_output(config, card.spec, path)
    if builds_model:
        # The configuration that was checked is built, not the one in the manifest.
        model = build_network(config.model, config.norm, export_files.folder, card.spec).to(device)
    else:
        model = RunnerModule(export_files.load(device, trust=trust))
        check_shapes(model, card.spec, device, path)
    return LoadedModel(
        config=config,
        model=model.eval(),
        spec=card.spec,
        device=device,
        autocast=None if policy is None else policy.torch_dtype,
        format=card.format,
        trained_data=card.trained_data,
    )


#: The keys of a configuration that an export keeps: its data, its network and their precision.
EXPORTED_KEYS = ("task", "data", "model", "norm", "precision", "eval", "seed", "folds", "fold", "device")

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
    "adapt",
    "distill",
    "checkpoint",
    "log",
    "quant",
    "prune",
    "federated",
    "init_from",
    "init_replace_head",
    "init_prefix",
)


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
    choices = {group: config["choices"][group] for group in MODEL_GROUPS}
    return remove_places({**{key: config[key] for key in EXPORTED_KEYS}, "choices": choices})


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
    return compose(overrides, saved=config)
