"""Measure how the metric of a trained network falls if one group of its channels is cut, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dnntrain.distributed.collectives import reduce_sum
from dnntrain.errors import ConfigError, DataError
from dnntrain.inference.evaluate_run import DataSplit, load_data_splits
from dnntrain.inference.load import LoadedModel, load_model
from dnntrain.nn.cost import count_forward_cost
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import MetricInfo
from dnntrain.pruning.criteria import ScoreInputs, score_units
from dnntrain.pruning.cut import cut_model, make_cut
from dnntrain.pruning.verify import find_safe_groups
from dnntrain.pruning.widths import Widths
from dnntrain.training.evaluation import evaluate
from dnntrain.utils.rng import Key
from dnntrain.utils.sealed_json import write_sealed_json

#: The file of a run that holds the measurement.
FILE_NAME = "sensitivity.json"

#: Shares of a group that are removed, and examples that are evaluated.
RATIOS = (0.25, 0.5, 0.75)
MAX_EXAMPLES = 1000


@dataclass(frozen=True)
class GroupSensitivity:
    """One group: its width, the share of the FLOPs that its removal by half saves, and the metric at each ratio."""

    name: str
    width: int
    saved: float
    values: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"group": self.name, "width": self.width, "saved_flops": self.saved, "values": list(self.values)}


@dataclass(frozen=True)
class Sensitivity:
    """The metric of the whole network and of each cut, and the channels that cannot be cut."""

    metric: MetricInfo
    whole: float
    examples: int
    criterion: str
    groups: tuple[GroupSensitivity, ...]
    frozen: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as in sensitivity.json."""
        return {
            "metric": self.metric.name,
            "whole": self.whole,
            "examples": self.examples,
            "criterion": self.criterion,
            "ratios": list(RATIOS),
            "groups": [group.as_json() for group in self.groups],
            "frozen": self.frozen,
        }


def measure_sensitivity(
    path: Path, overrides: Sequence[str], criterion: str, trust: bool, say: Callable[[str], None]
) -> Sensitivity:
    """Cut each group of the run's network alone, and evaluate; write sensitivity.json into a run.

    Validation examples are used, or test examples without any. Raises ConfigError if the network
    has no channels that can be cut, or if the criterion cannot judge them.
    """
    loaded = load_model(path, overrides, trust)
    loaded = replace(loaded, model=loaded.model.cpu().float().eval(), device="cpu", autocast=None)
    splits = load_data_splits(loaded)
    split = splits["val"] if len(splits["val"]) else splits["test"]
    if not len(split):
        raise DataError("there is no example to evaluate on", "set data.val_fraction=0.1")
    measurement = _measure(loaded, split, criterion, say)
    if (path / "config.yaml").is_file():
        write_sealed_json(path / FILE_NAME, measurement.as_json())
    return measurement


def _measure(loaded: LoadedModel, split: DataSplit, criterion: str, say: Callable[[str], None]) -> Sensitivity:
    shape = ModelShape.from_spec(loaded.spec)
    coupling = find_safe_groups(loaded.model, shape.make_zeros(1))
    inputs = ScoreInputs(loaded.model, tuple, Key(loaded.config.seed, "sensitivity"))
    scores = score_units(criterion, coupling.groups, inputs)
    judged = [number for number, values in enumerate(scores) if values is not None]
    if not judged:
        reasons = ", ".join(f"{name}: {reason}" for name, reason in list(coupling.frozen.items())[:3])
        raise ConfigError(
            f"the network has no channels that can be cut by {criterion}" + (f" ({reasons})" if reasons else ""),
            "use --criterion magnitude, or another model",
        )
    infos = loaded.config.task.list_infos()
    metric = next((info for info in infos if info.name == loaded.config.eval.metric), infos[0])
    whole = _evaluate(loaded, loaded.model, split, metric)
    flops = count_forward_cost(loaded.model, shape)[0]
    groups = []
    for place, number in enumerate(judged, 1):
        group, values = coupling.groups[number], scores[number]
        assert values is not None
        say(f"{place} of {len(judged)}: {group.name}")
        cuts = []
        for ratio in RATIOS:
            units = values.argsort(kind="stable")[: min(round(ratio * len(group)), len(group) - 1)].tolist()
            cuts.append(cut_model(loaded.model, make_cut(loaded.model, {number: units}, coupling.groups, Widths())))
        saved = 1 - count_forward_cost(cuts[1], shape)[0] / max(flops, 1)
        measured = tuple(_evaluate(loaded, smaller, split, metric) for smaller in cuts)
        groups.append(GroupSensitivity(group.name, len(group), saved, measured))
    examples = min(len(split), MAX_EXAMPLES)
    return Sensitivity(metric, whole, examples, criterion, tuple(groups), dict(coupling.frozen))


def _evaluate(loaded: LoadedModel, model: torch.nn.Module, split: DataSplit, metric: MetricInfo) -> float:
    loaded = replace(loaded, model=model.eval())
    values = evaluate(
        loaded.config.task,
        loaded.spec,
        model,
        loaded.compute_batch_outputs,
        split.make_batches(loaded, loaded.config.eval.batch_size, MAX_EXAMPLES),
        reduce_sum,
        "cpu",
    )
    return float(values[metric.name])


def format_sensitivity(measurement: Sensitivity) -> Iterator[str]:
    """Yield the lines of a table."""
    yield (
        f"{measurement.metric.name} {measurement.whole:.4f} of the whole network, {measurement.examples} examples, "
        f"criterion {measurement.criterion}, no training"
    )
    width = max(len(group.name) for group in measurement.groups)
    yield f"{'group':{width}}  width   FLOPs  " + "  ".join(f"{f'-{ratio:.0%}':>7}" for ratio in RATIOS)
    for group in sorted(measurement.groups, key=lambda group: -measurement.metric.sign * group.values[1]):
        values = "  ".join(f"{value:7.4f}" for value in group.values)
        yield f"{group.name:{width}}  {group.width:5}  {-group.saved:6.1%}  {values}"
    for name, reason in measurement.frozen.items():
        yield f"{name}: stays, because {reason}"
