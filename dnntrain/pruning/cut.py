"""Cut units out of a network: its tensors, its state, and the check against the masked network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dnntrain.pruning.trace import Axis, Group
from dnntrain.pruning.widths import HEAD_ATTRIBUTES, WIDTH_ATTRIBUTES, Widths, apply_widths

#: For each axis that is cut, the indices that are kept.
KeptIndices = Mapping[Axis, NDArray[np.int64]]


@dataclass(frozen=True)
class Cut:
    """The units that go: the kept indices, and the widths of the network without them.

    replaced  new values of tensors of the cut network, by name
    dropped   modules that go whole
    notes     numbers and texts about the cut, for a row of the metrics
    """

    kept: KeptIndices
    widths: Widths
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def make_cut(model: nn.Module, removed: Mapping[int, Sequence[int]], groups: Sequence[Group], before: Widths) -> Cut:
    """Return the cut that removes units by the number of their group.

    `model` has the widths `before`.
    """
    tensors = get_tensors(model)
    gone: dict[Axis, set[int]] = {}
    for number, units in removed.items():
        for unit in units:
            for key, places in zip(groups[number].axes, groups[number].units[unit], strict=True):
                gone.setdefault(key, set()).update(places.tolist())
    kept: dict[Axis, NDArray[np.int64]] = {}
    shapes = {name: list(before.shapes.get(name, [0] * tensors[name].ndim)) for name, _ in gone}
    for (name, axis), indices in gone.items():
        size = tensors[name].shape[axis]
        kept[name, axis] = np.setdiff1d(np.arange(size), np.fromiter(indices, np.int64))
        shapes[name][axis] = len(kept[name, axis])
    attributes = {name: dict(values) for name, values in before.attributes.items()}
    for number, units in removed.items():
        for name, values in _follow_attributes(model, groups[number], len(units)).items():
            attributes.setdefault(name, {}).update(values)
    new_shapes = {name: tuple(shape) for name, shape in shapes.items()}
    return Cut(kept, Widths({**before.shapes, **new_shapes}, attributes, before.dropped, before.cuts))


def _follow_attributes(model: nn.Module, group: Group, removed: int) -> dict[str, dict[str, int]]:
    """Return the numbers of heads, and widths of attention, that depend on the group."""
    old, new = len(group), len(group) - removed
    width = max(len(indices) for indices in group.units[0])
    attributes: dict[str, dict[str, int]] = {}
    if width == 1 or not removed:
        return attributes
    owners = {name.rpartition(".")[0] for name, _ in group.axes}
    owners |= {owner.rpartition(".")[0] for owner in owners}
    spans = {len(indices) for indices in group.units[0]}
    for owner in sorted(owners):
        module = model.get_submodule(owner)
        for key, value in vars(module).items():
            if key in HEAD_ATTRIBUTES and type(value) is int and value == old:
                attributes.setdefault(owner, {})[key] = new
            if key in WIDTH_ATTRIBUTES and type(value) is int and value in {old * span for span in spans}:
                attributes.setdefault(owner, {})[key] = value // old * new
    return attributes


def get_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; a shared one under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def cut_tensor(name: str, tensor: Tensor, kept: KeptIndices, shape: Sequence[int]) -> Tensor:
    """Return the kept part of a tensor that belongs to the parameter `name` of the uncut `shape`.

    An axis of size 1, as in a factored moment, stays.
    """
    for axis, size in enumerate(shape):
        indices = kept.get((name, axis))
        if indices is not None and tensor.shape[axis] == size:
            tensor = tensor.index_select(axis, torch.from_numpy(indices).to(tensor.device))
    return tensor


@torch.no_grad()
def cut_model(model: nn.Module, cut: Cut) -> nn.Module:
    """Return a smaller copy of `model` with the kept values."""
    shapes = {name: tuple(tensor.shape) for name, tensor in get_tensors(model).items()}
    # A cut model may itself be the one that is cut again, so the widths are relative to it.
    names = {name for name, _ in cut.kept}
    relative = Widths({name: cut.widths.shapes[name] for name in names}, cut.widths.attributes)
    smaller = apply_widths(copy.deepcopy(model), relative)
    sources = get_tensors(model)
    for name, tensor in get_tensors(smaller).items():
        tensor.data.copy_(cut_tensor(name, sources[name].detach(), cut.kept, shapes[name]))
    smaller.pruned_widths = cut.widths  # type: ignore[assignment]
    return smaller


@torch.no_grad()
def mask_model(model: nn.Module, cut: Cut) -> nn.Module:
    """Return a copy of `model` of the same size, in which all that is cut is zero."""
    masked = copy.deepcopy(model)
    tensors = get_tensors(masked)
    for (name, axis), indices in cut.kept.items():
        tensor = tensors[name]
        gone = np.setdiff1d(np.arange(tensor.shape[axis]), indices)
        tensor.data.index_fill_(axis, torch.from_numpy(gone).to(tensor.device), 0)
    return masked


def cut_state(state: Any, kept: KeptIndices, shapes: Mapping[str, Sequence[int]]) -> Any:
    """Return a saved state, in which every tensor under the name of a parameter is cut like it.

    Raises ValueError for a tensor that cannot follow.
    """
    if not isinstance(state, Mapping):
        return state
    return {
        key: _cut_entry(key, value, kept, shapes) if key in shapes else cut_state(value, kept, shapes)
        for key, value in state.items()
    }


def _cut_entry(name: str, value: Any, kept: KeptIndices, shapes: Mapping[str, Sequence[int]]) -> Any:
    if isinstance(value, Mapping):
        return {key: _cut_entry(name, item, kept, shapes) for key, item in value.items()}
    if not isinstance(value, Tensor) or not any(key[0] == name for key in kept) or value.numel() == 1:
        return value
    shape = shapes[name]
    if value.ndim != len(shape) or any(size not in (1, full) for size, full in zip(value.shape, shape, strict=True)):
        raise ValueError(f"the state of {name} is {list(value.shape)} and does not follow its shape {list(shape)}")
    return cut_tensor(name, value, kept, shape)
