"""Criteria: a score for each unit of each group. Units with the lowest scores go first.

Sources: L2 norm: Li et al., "Pruning filters for efficient ConvNets", 2017. Batch-norm scale: Liu et
al., "Network slimming", 2017. FPGM: He et al., 2019. Taylor: Molchanov et al., 2019. LAMP: Lee et
al., 2021. OBD: LeCun et al., 1990, with the Fisher diagonal for the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dnntrain.pruning.cut import get_tensors
from dnntrain.pruning.trace import Group
from dnntrain.utils.rng import Key

Scores = NDArray[np.float64]

#: Yields the gradient of the loss of one batch after another, by name of the parameter.
Gradients = Callable[[], Sequence[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class ScoreInputs:
    """The network, its gradients on training examples, and the key of random scores."""

    model: nn.Module
    gradients: Gradients
    key: Key


def score_units(criterion: str, groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    """Return the scores of the units of each group; None for a group that the criterion cannot judge."""
    return _CRITERIA[criterion](groups, inputs)


def uses_gradients(criterion: str) -> bool:
    """Return whether the criterion reads gradients."""
    return criterion in ("taylor", "obd")


def _score_random(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    scores: list[Scores | None] = []
    for group in groups:
        index = np.arange(len(group), dtype=np.int64)
        scores.append(inputs.key.with_stream(f"{inputs.key.stream}/{group.name}").uniform(index))
    return scores


def _sum_parts(group: Group, values: Mapping[str, Tensor], weights_only: bool = True) -> Scores:
    """Sum non-negative numbers over each unit's part of every weight."""
    total = np.zeros(len(group))
    for place, (name, axis) in enumerate(group.axes):
        value = values.get(name)
        if value is None or (weights_only and value.ndim < 2):
            continue
        along = value.double().movedim(axis, 0).flatten(1).sum(1).cpu().numpy()
        total += np.array([along[unit[place]].sum() for unit in group.units])
    return total


def _score_magnitude(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    squares = {name: value.detach().square() for name, value in inputs.model.named_parameters()}
    return [np.sqrt(_sum_parts(group, squares)) for group in groups]


def _score_lamp(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    """Divide each squared norm by the sum of those of the group that are at least as large."""
    scores: list[Scores | None] = []
    for norms in _score_magnitude(groups, inputs):
        assert norms is not None
        order = np.argsort(norms, kind="stable")
        tails = np.cumsum((norms[order] ** 2)[::-1])[::-1]
        lamp = np.empty_like(norms)
        lamp[order] = norms[order] ** 2 / np.maximum(tails, 1e-300)
        scores.append(lamp)
    return scores


def _score_fpgm(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    """Sum the distances to the other units' filters: a filter near the geometric median is replaceable."""
    tensors = {name: value.detach() for name, value in inputs.model.named_parameters()}
    scores: list[Scores | None] = []
    for group in groups:
        parts = []
        for place, (name, axis) in enumerate(group.axes):
            if axis == 0 and name in tensors and tensors[name].ndim > 1:
                rows = tensors[name].double().flatten(1)
                indices = torch.from_numpy(np.stack([unit[place] for unit in group.units])).to(rows.device)
                parts.append(rows[indices].flatten(1))
        if not parts:
            scores.append(None)
            continue
        filters = torch.cat(parts, 1)
        scores.append(torch.cdist(filters, filters).sum(1).cpu().numpy())
    return scores


def _score_bn_scale(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    """Average the absolute scales of the normalization layers of each unit."""
    scales = {
        f"{name}.weight": module.weight.detach().abs().double().cpu().numpy()
        for name, module in inputs.model.named_modules()
        if isinstance(module, _NormBase | nn.GroupNorm) and module.weight is not None
    }
    scores: list[Scores | None] = []
    for group in groups:
        parts = [
            [scales[name][unit[place]].mean() for unit in group.units]
            for place, (name, _) in enumerate(group.axes)
            if name in scales
        ]
        scores.append(np.mean(parts, 0) if parts else None)
    return scores


def _score_taylor(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    """Sum (g w)² over each unit's weights, over the batches."""
    return _score_gradients(groups, inputs, lambda weight, gradient: (weight * gradient).square())


def _score_obd(groups: Sequence[Group], inputs: ScoreInputs) -> list[Scores | None]:
    """Sum w² F / 2 with the Fisher information F = mean of g² over the batches."""
    return _score_gradients(groups, inputs, lambda weight, gradient: (weight.square() * gradient.square()) / 2)


def _score_gradients(
    groups: Sequence[Group], inputs: ScoreInputs, combine: Callable[[Tensor, Tensor], Tensor]
) -> list[Scores | None]:
    tensors = get_tensors(inputs.model)
    totals: list[Scores] = [np.zeros(len(group)) for group in groups]
    for gradients in inputs.gradients():
        values = {name: combine(tensors[name].detach(), gradient) for name, gradient in gradients.items()}
        totals = [total + _sum_parts(group, values) for total, group in zip(totals, groups, strict=True)]
    return list(totals)


_CRITERIA: dict[str, Callable[[Sequence[Group], ScoreInputs], list[Scores | None]]] = {
    "random": _score_random,
    "magnitude": _score_magnitude,
    "taylor": _score_taylor,
    "fpgm": _score_fpgm,
    "bn_scale": _score_bn_scale,
    "lamp": _score_lamp,
    "obd": _score_obd,
}
