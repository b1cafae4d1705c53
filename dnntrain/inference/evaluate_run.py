"""Evaluate a run or an export on its data, or on other data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dnntrain.distributed.collectives import reduce_sum
from dnntrain.errors import ConfigError, DataError
from dnntrain.inference.class_names import match_classes
from dnntrain.inference.load import LoadedModel, load_model
from dnntrain.inference.option_values import SPLITS
from dnntrain.inference.run_args import get_given_keys
from dnntrain.input.pipeline import read_evaluation_batches
from dnntrain.input.read_errors import explain_unreadable_data
from dnntrain.input.row_source import match_columns, match_values
from dnntrain.input.source import DataSet, Source
from dnntrain.input.split import limit_examples, prepare_data
from dnntrain.input.unreadable import describe_skipped
from dnntrain.protocols import Batch, InputKind, TargetKind, TargetSpec
from dnntrain.training.evaluation import evaluate
from dnntrain.utils.messages import say_once, warn_user
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.world import World


@dataclass(frozen=True)
class DataSplit:
    """Examples of one split, in the form of the model's inputs: of one source, or of several."""

    name: str
    dataset: DataSet
    parts: tuple[tuple[Source, Index], ...]

    @property
    def index(self) -> Index:
        """The examples of the first source."""
        return self.parts[0][1]

    def select(self, index: Index) -> DataSplit:
        """Return the split with the examples `index` of its first source."""
        return replace(self, parts=((self.parts[0][0], index),))

    def __len__(self) -> int:
        return sum(len(index) for _, index in self.parts)

    def make_batches(self, loaded_model: LoadedModel, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the first `limit` examples, or all, in order, on the model's device, without augmentation."""
        # The model keeps its own normalization, also for another data set.
        dataset = replace(self.dataset, inputs=loaded_model.spec.inputs)
        remaining = len(self) if limit is None else limit
        batches: list[Iterator[Batch]] = []
        for source, index in self.parts:
            batches.append(
                read_evaluation_batches(
                    loaded_model.config.data,
                    dataset,
                    source,
                    index[:remaining],
                    batch_size=batch_size,
                    world=World(),
                    device=loaded_model.device,
                    channels_last=False,
                )
            )
            remaining -= min(remaining, len(index))
        return chain.from_iterable(batches)


def _check_mask_classes(dataset: DataSet, targets: TargetSpec) -> None:
    if dataset.targets.names != targets.names:
        raise DataError(
            f"the masks have the classes {', '.join(dataset.targets.names[:12])}; the model was trained for "
            f"{', '.join(targets.names[:12])}",
            "name the classes of the masks as in the training: data.classes=FILE",
        )


def load_data_splits(loaded_model: LoadedModel, renames: Mapping[str, str] | None = None) -> dict[str, DataSplit]:
    """Return the splits train, val, test and all of the configured data set.

    Classes are matched by their names; `renames` maps names of the data to names of the model.
    Raises DataError if the data does not fit the model.
    """
    config, spec = loaded_model.config, loaded_model.spec
    with explain_unreadable_data():
        dataset = config.data.build_for_evaluation()
    is_other_shape = spec.inputs.kind is InputKind.IMAGES and dataset.inputs.shape != spec.inputs.shape
    if is_other_shape or dataset.inputs.kind != spec.inputs.kind or dataset.targets.kind != spec.targets.kind:
        raise DataError(
            f"the data set has {dataset.targets.describe()} of {dataset.inputs.shape}, "
            f"the model {spec.targets.describe()} of {spec.inputs.shape}",
            "evaluate on data of the same form",
        )
    dataset = match_columns(dataset, spec.inputs)
    if spec.targets.kind is TargetKind.CLASS:
        dataset = match_classes(dataset, spec.targets, renames or {})
    elif spec.targets.kind is TargetKind.MASK:
        _check_mask_classes(dataset, spec.targets)
    else:
        dataset = match_values(dataset, spec.targets)
    data = prepare_data(config, dataset)
    first = len(dataset.train)
    everything = limit_examples(
        np.arange(first + len(dataset.test)), config.eval.max_examples, Key(config.seed, "limit")
    )
    return {
        "train": DataSplit("train", dataset, ((dataset.train, data.train),)),
        "val": DataSplit("val", dataset, ((dataset.train, data.val),)),
        # A run of a fold is tested on the part of the training examples that it held out.
        "test": DataSplit("test", dataset, ((data.dataset.test, data.test),)),
        "all": DataSplit(
            "all",
            dataset,
            ((dataset.train, everything[everything < first]), (dataset.test, everything[everything >= first] - first)),
        ),
    }


def check_split(name: str) -> str:
    """Return `name` if it is a split. Raises ConfigError with the nearest one if not."""
    if name not in SPLITS:
        raise ConfigError(f"split {name!r} is not one of {', '.join(SPLITS)}", did_you_mean(name, SPLITS))
    return name


def evaluate_run(
    path: Path,
    overrides: Sequence[str],
    split: str | None = None,
    trust: bool = False,
    renames: Mapping[str, str] | None = None,
) -> tuple[str, dict[str, float | int]]:
    """Evaluate a run or an export on `split`, in eval mode, without augmentation.

    Without `split` it is the test split; of other data without a test split of its own, all
    examples. Returns the split, and the loss, the metrics of the task and the number of examples.
    """
    loaded_model = load_model(path, overrides, trust)
    splits = load_data_splits(loaded_model, renames)
    dataset = splits["test"].dataset
    trained_data = loaded_model.trained_data
    reading_keys = {f"data.{name}" for name in loaded_model.config.data.reading_options}
    has_other_data = any(key.split(".")[0] == "data" for key in get_given_keys(overrides) if key not in reading_keys)
    if split is None:
        is_same = trained_data.get("digest") == dataset.digest or not has_other_data
        split = "test" if is_same or dataset.has_test_part else "all"
        if split == "all":
            say_once("note: the data have no test split, so all examples are evaluated; --split test takes a part")
    if trained_data and not has_other_data and trained_data["digest"] != dataset.digest:
        warn_user(_describe_change(trained_data, splits))
    data_split = splits[split]
    if not len(data_split):
        raise DataError(f"the {split} split is empty", "choose another --split, or set data.val_fraction")
    batches = data_split.make_batches(loaded_model, loaded_model.config.eval.batch_size)
    values = evaluate(
        loaded_model.config.task,
        loaded_model.spec,
        loaded_model.model,
        loaded_model.compute_batch_outputs,
        batches,
        reduce_sum,
        loaded_model.device,
    )
    if reasons := [*dataset.train.failures.values(), *dataset.test.failures.values()]:
        warn_user(describe_skipped(reasons))
    return split, values


def _describe_change(trained_data: Mapping[str, Any], splits: Mapping[str, DataSplit]) -> str:
    sizes = ", ".join(f"{trained_data.get(name)} → {len(splits[name])} {name}" for name in ("train", "val", "test"))
    return f"the data have changed since the training: {sizes} examples; no example moved from one split to another"
