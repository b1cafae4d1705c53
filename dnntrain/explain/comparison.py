"""Compare a model with another one on the same examples: a student, an export, or itself in integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.explain.calibration import measure_reliability
from dnntrain.explain.layers import integer_layers, list_weight_layers
from dnntrain.explain.map_set import MapSet
from dnntrain.explain.method import MapMethod
from dnntrain.explain.similarity import Similarity
from dnntrain.explain.statistics import correlate_ranks
from dnntrain.explain.subject import SplitOutputs, Subject
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.input.row_source import match_columns
from dnntrain.protocols import InputSpec, TargetKind


@dataclass(frozen=True)
class OtherMaps:
    """The maps of another model for the shown examples and outputs.

    label         "in int8", or the name of the model
    maps          [n, height, width]
    correlations  [n], rank correlation with the maps that are shown
    """

    label: str
    maps: Tensor
    correlations: Tensor

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"model": self.label, "correlations": [round(value, 6) for value in self.correlations.tolist()]}


@dataclass(frozen=True)
class Comparison:
    """The figures of two models on the same examples, and how far their layers agree.

    figures     (name, value, value of the other model)
    agreement   share of the examples with the same answer
    similarity  of the layers, or of the outputs alone if the other one is a program
    """

    label: str
    figures: list[tuple[str, float, float]]
    agreement: float
    similarity: Similarity

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        figures = {name: {"value": mine, "other": other} for name, mine, other in self.figures}
        return {"model": self.label, "figures": figures, "agreement": self.agreement, **self.similarity.as_json()}


def check_same_form(subject: Subject, other: Subject, name: str) -> None:
    """Raise ConfigError if two models cannot answer for the same examples."""
    mine, others = subject.loaded.spec, other.loaded.spec
    pieces, other_pieces = (spec.inputs.vocabulary and spec.inputs.vocabulary.list_pieces() for spec in (mine, others))
    if pieces != other_pieces:
        raise ConfigError(
            f"--against {name}: it reads other tokens than the explained model",
            "name a run with the same data.tokenizer",
        )
    # A model of tables finds its own columns in the same data.
    is_same_input = mine.inputs.shape == others.inputs.shape or subject.is_table
    is_same_target = mine.targets.kind == others.targets.kind and mine.output.names == others.output.names
    if mine.inputs.kind != others.inputs.kind or not (is_same_input and is_same_target):
        raise ConfigError(
            f"--against {name}: it maps {others.inputs.describe()} to {others.targets.describe()}, "
            f"the explained model {mine.inputs.describe()} to {mine.targets.describe()}",
            "name a run or an export for the same data",
        )


def adapt_split(split: DataSplit, other: Subject) -> DataSplit:
    """Return the same examples of one source, with the columns of another model of tables.

    Raises DataError if the data do not have one of its columns.
    """
    source, index = split.parts[0]
    dataset = replace(split.dataset, train=source, test=source)
    if other.is_table:
        dataset = match_columns(dataset, other.loaded.spec.inputs)
    return replace(split, dataset=dataset, parts=((dataset.train, index),))


def compare_outputs(subject: Subject, mine: SplitOutputs, others: SplitOutputs) -> list[tuple[str, float, float]]:
    """Return the figures of two models: the loss, and of classes the accuracy and the calibration error."""
    figures = [("loss", float(mine.losses.mean()), float(others.losses.mean()))]
    if subject.target_kind is TargetKind.CLASS:
        pairs = []
        for item in (mine, others):
            assert item.probabilities is not None
            accuracy = float((item.outputs.argmax(1) == item.targets).double().mean())
            pairs.append((accuracy, measure_reliability(item.probabilities, item.targets).ece))
        figures.insert(0, ("accuracy", pairs[0][0], pairs[1][0]))
        figures.append(("ece", pairs[0][1], pairs[1][1]))
    return figures


def convert_inputs(inputs: Tensor, source: InputSpec, target: InputSpec) -> Tensor:
    """Return inputs that are normalized for one model in the form of another one."""
    if (source.mean, source.std) == (target.mean, target.std):
        return inputs
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    means, stds = (
        [torch.tensor(vars(spec)[name], device=inputs.device).view(shape) for spec in (source, target)]
        for name in ("mean", "std")
    )
    return (inputs * stds[0] + means[0] - means[1]) / stds[1]


def make_other_maps(
    label: str, method: MapMethod, model: nn.Module, shown: MapSet, inputs: Tensor, device: str
) -> OtherMaps:
    """Return the maps of another model for the same images, as `inputs` of it, and the same outputs."""
    aim, inputs = shown.aim, inputs.to(device)
    aim = type(aim)(aim.outputs.to(device), aim.signs.to(device))
    parts = [
        method.compute_maps(model, inputs[rows], aim.select(rows))
        for rows in torch.split(torch.arange(len(inputs), device=device), 16)
    ]
    maps = torch.cat(parts).to(shown.maps.device) if parts else shown.maps
    return OtherMaps(label, maps, correlate_ranks(shown.maps, maps).cpu())


def make_integer_maps(method: MapMethod, subject: Subject, shown: MapSet, reaches: dict[str, Tensor]) -> OtherMaps:
    """Return the maps of the network with all layers in 8-bit integers."""
    with integer_layers(list_weight_layers(subject.model), reaches):
        return make_other_maps("in int8", method, subject.model, shown, shown.inputs, subject.loaded.device)
