"""Find the cut of structured pruning: groups, scores, and the units that meet the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.nn.cost import count_forward_cost, count_parameters
from dnntrain.nn.partition import get_divisible_sizes
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import ReshapeInputs
from dnntrain.pruning.criteria import ScoreInputs, Scores, score_units, uses_gradients
from dnntrain.pruning.cut import Cut, cut_model, get_tensors, make_cut
from dnntrain.pruning.latency import measure_latency_ratio
from dnntrain.pruning.repair import compensate_removed, recalibrate_batch_norm
from dnntrain.pruning.selection import (
    Removed,
    Rules,
    describe_removed,
    exclude_groups,
    find_removed,
    get_unit_multiple,
    name_kinds,
)
from dnntrain.pruning.trace import Coupling, Group
from dnntrain.pruning.verify import find_safe_groups
from dnntrain.pruning.widths import Widths
from dnntrain.utils.rng import Key
from dnntrain.utils.units import format_bytes, format_count

#: Training examples that gradients and statistics are measured on, and how many at a time.
_BATCH_SIZE = 32


@dataclass(frozen=True)
class CutOptions:
    """How a cut is chosen; see `prune=structured`.

    shape        shape of the inputs and number of classes
    examples     training examples that criterion, compensation and recalibration read
    device       device on which latencies are measured
    """

    criterion: str
    rules: Rules
    target: str
    exclude: tuple[str, ...]
    examples: int
    seed: int
    shape: ModelShape
    compensate: str = "none"
    recalibrate: bool = False
    device: str = "cpu"


def find_groups_to_cut(model: nn.Module, options: CutOptions) -> Coupling:
    """Return the groups of `model` that may be cut. Raises ConfigError if there are none."""
    coupling = find_safe_groups(model, options.shape.make_zeros(1))
    groups = exclude_groups(coupling.groups, options.exclude, model)
    if not groups:
        reasons = ", ".join(f"{name}: {reason}" for name, reason in list(coupling.frozen.items())[:3])
        raise ConfigError(
            "prune=structured finds no channels that can be removed from this network"
            + (f" ({reasons})" if reasons else ""),
            "exclude less, or choose another model",
        )
    return replace(coupling, groups=tuple(groups))


def find_cut(options: CutOptions, factor: float, inputs: ReshapeInputs) -> Cut:
    """Return the cut after which the target costs at most `factor` times as much.

    Raises ConfigError if no cut is enough.
    """
    model = inputs.model.eval()
    coupling = find_groups_to_cut(model, options)
    groups = coupling.groups
    key = Key(options.seed, f"prune/{inputs.number}")
    gradients = make_gradients(inputs, options.examples) if uses_gradients(options.criterion) else _no_gradients
    scores = score_units(options.criterion, groups, ScoreInputs(model, gradients, key))
    measure = make_measure(model, groups, options, inputs.widths)
    limit = factor * measure({})
    removed, cost = find_removed(groups, scores, name_kinds(model, groups), options.rules, limit, measure)
    if cost > limit:
        raise ConfigError(
            f"prune.ratio cannot be reached: the {options.target} can be reduced to {cost / measure({}):.2f} of those "
            f"before the cut, not to {factor:.2f}",
            "use a smaller prune.ratio, prune.protect or prune.round_to, or exclude less",
        )
    cut = make_cut(model, removed, groups, inputs.widths)
    smaller = cut_model(model, cut)
    replaced = {}
    if options.compensate == "ridge":
        replaced = compensate_removed(model, smaller, cut, inputs.batches(options.examples, _BATCH_SIZE))
    if options.recalibrate:
        replaced |= recalibrate_batch_norm(smaller, inputs.batches(options.examples, _BATCH_SIZE))
    before, after = (describe_cost(network, options.shape) for network in (model, smaller))
    notes = {
        "reason": f"{before} → {after}",
        "widths": describe_removed(groups, removed),
        "parameters": count_parameters(smaller),
        "flops": count_forward_cost(smaller, options.shape)[0],
    }
    return replace(cut, replaced=replaced, notes=notes)


def check_limit(model: nn.Module, groups: Sequence[Group], options: CutOptions, ratio: float) -> None:
    """Raise ConfigError, with the nearest ratio that works, if the target cannot be reached."""
    order: list[Scores | None] = [np.arange(len(group), dtype=np.float64) + 1 for group in groups]
    measure = make_measure(model, groups, options, Widths())
    whole = measure({})
    _, smallest = find_removed(groups, order, name_kinds(model, groups), options.rules, 0.0, measure)
    if smallest > whole * (1 - ratio):
        reachable = int(100 * (1 - smallest / whole)) / 100
        raise ConfigError(
            f"prune.ratio={ratio} cannot be reached: with prune.protect={options.rules.protect} and "
            f"prune.round_to={options.rules.round_to}, at most {reachable:.2f} of the {options.target} can be removed",
            f"use prune.ratio={reachable}, a smaller prune.protect or prune.round_to, or exclude less"
            if reachable
            else "use a smaller prune.round_to",
        )


def check_tensor_parallel(model: nn.Module, groups: Sequence[Group], round_to: int, ranks: int) -> None:
    """Raise ConfigError, with the multiple that works, if a cut may leave widths that `ranks` do not divide."""
    if ranks == 1:
        return
    weights = {f"{name}.weight" for name, _ in get_divisible_sizes(model)}
    divided = [group for group in groups if any(axis == (name, 0) for axis in group.axes for name in weights)]

    def list_failing(multiple: int) -> list[Group]:
        return [group for group in divided if get_unit_multiple(group, multiple) % ranks]

    if failing := list_failing(round_to):
        multiples = range(round_to, 1024 * round_to, round_to)
        fitting = next((multiple for multiple in multiples if not list_failing(multiple)), None)
        raise ConfigError(
            f"prune.round_to={round_to} may leave a width of {failing[0].name} that parallel.tp={ranks} does not divide",
            f"use prune.round_to={fitting}, or parallel=fsdp" if fitting else "use parallel=fsdp",
        )


def measure_target(model: nn.Module, target: str, shape: ModelShape) -> float:
    """Return the parameters, FLOPs of an image, or bytes of a network."""
    if target == "flops":
        return count_forward_cost(model, shape)[0]
    if target == "size":
        return float(sum(tensor.numel() * tensor.element_size() for tensor in get_tensors(model).values()))
    return float(count_parameters(model))


def describe_cost(model: nn.Module, shape: ModelShape) -> str:
    """Return parameters, FLOPs and size in a line."""
    flops, size = count_forward_cost(model, shape)[0], measure_target(model, "size", shape)
    return f"{format_count(count_parameters(model))} parameters, {format_count(flops)} FLOPs, {format_bytes(size)}"


def make_measure(
    model: nn.Module, groups: Sequence[Group], options: CutOptions, widths: Widths
) -> Callable[[Removed], float]:
    """Return a function that cuts some units out of a copy and measures the target on it.

    A latency is a multiple of that of the network before the cut.
    """

    def measure(removed: Removed) -> float:
        smaller = cut_model(model, make_cut(model, removed, groups, widths))
        if options.target == "latency":
            return measure_latency_ratio(smaller, model, options.shape, options.device) if removed else 1.0
        return measure_target(smaller, options.target, options.shape)

    return measure


def make_gradients(inputs: ReshapeInputs, examples: int) -> Callable[[], Sequence[Mapping[str, Tensor]]]:
    """Return a function that computes the gradient of each of a few batches, in eval mode."""

    def compute() -> Any:
        model = inputs.model.eval()
        for batch in inputs.batches(examples, _BATCH_SIZE):
            model.zero_grad(set_to_none=True)
            torch.autograd.backward(inputs.loss(model(batch.inputs), batch) / max(len(batch), 1))
            yield {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        model.zero_grad(set_to_none=True)

    return compute


def _no_gradients() -> Sequence[Mapping[str, Tensor]]:
    return ()
