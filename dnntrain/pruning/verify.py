"""Check groups by cutting them: a group whose cut is not the masked network is left whole.

The rules of tracing see one pass. A forward method that computes with numbers of its own would
break after a cut, so each cut is tried on a network of random weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dnntrain.errors import CheckpointError
from dnntrain.nn.cost import one_thread
from dnntrain.nn.init import keyed_generator
from dnntrain.pruning.cut import Cut, cut_model, get_tensors, make_cut, mask_model
from dnntrain.pruning.trace import Coupling, Group, find_groups
from dnntrain.pruning.widths import Widths

#: Largest difference of the outputs, relative to the largest output.
TOLERANCE = 1e-4

_REASON = "its forward method computes with sizes that do not follow a cut"


def find_safe_groups(model: nn.Module, inputs: Tensor) -> Coupling:
    """Return the groups of `model` (on the CPU) whose cut equals the masked network.

    `inputs` has the shape and type of one input, [1, …].
    """
    coupling = find_groups(model, inputs)
    trial = make_random_copy(model)
    images = make_random_inputs(inputs, 2)
    if is_exact_cut(
        trial, {number: _take_half(group) for number, group in enumerate(coupling.groups)}, coupling, images
    ):
        return coupling
    safe: list[Group] = []
    frozen = dict(coupling.frozen)
    for number, group in enumerate(coupling.groups):
        if is_exact_cut(trial, {number: _take_half(group)}, coupling, images):
            safe.append(group)
        else:
            frozen[group.name] = _REASON
    return Coupling(tuple(safe), frozen, coupling.unknown)


def make_random_inputs(like: Tensor, count: int) -> Tensor:
    """Return `count` random inputs of the shape and type of `like`: normal numbers, or tokens 0 and 1."""
    shape, generator = (count, *like.shape[1:]), torch.Generator().manual_seed(0)
    if like.is_floating_point():
        return torch.randn(shape, generator=generator)
    return torch.randint(0, 2, shape, generator=generator)


def is_exact_cut(model: nn.Module, removed: Mapping[int, Sequence[int]], coupling: Coupling, images: Tensor) -> bool:
    """Return whether the network without these units computes the outputs of the masked one."""
    try:
        difference = measure_difference(model, make_cut(model, removed, coupling.groups, Widths()), images)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, CheckpointError):
        return False
    return difference <= TOLERANCE


def measure_difference(model: nn.Module, cut: Cut, images: Tensor) -> float:
    """Return max |cut - masked| / max(1, |masked|) of the outputs in eval mode."""
    with one_thread(), torch.no_grad():
        masked = mask_model(model, cut).eval()(images)
        smaller = cut_model(model, cut).eval()(images)
    if masked.shape != smaller.shape or not torch.isfinite(masked).all():
        return float("inf")
    return float((masked - smaller).abs().max() / masked.abs().max().clamp_min(1))


@torch.no_grad()
def make_random_copy(model: nn.Module) -> nn.Module:
    """Return a copy with random weights of a moderate size, whatever the weights of `model`."""
    trial = copy.deepcopy(model).cpu().float()
    with keyed_generator(0, "pruning"):
        for name, tensor in get_tensors(trial).items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1:
                fan = tensor[0].numel() if tensor.shape[0] > 1 else tensor.shape[-1]
                tensor.normal_(0, max(fan, 1) ** -0.5)
            else:
                tensor.uniform_(0.5, 1.5)
    return trial


def _take_half(group: Group) -> list[int]:
    """Return every other unit, which is less than all."""
    return list(range(0, len(group), 2))[: max(1, len(group) // 2)]
