"""Repair a network after a cut without training: closed-form compensation, and batch-norm statistics.

Source of the compensation: a ridge regression of each layer's removed inputs on the kept ones, as
in OBSPA (Wang et al., 2024) and Intra-Fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.protocols import Batch
from dnntrain.pruning.cut import Cut, get_tensors

#: Ridge penalty as a share of the mean square of the kept inputs.
_PENALTY = 1e-3


@dataclass
class _Moments:
    """Sums over positions of the inputs of a layer: their number, sum [c] and products [c, c]."""

    count: int
    total: Tensor
    products: Tensor


@torch.no_grad()
def compensate_removed(model: nn.Module, smaller: nn.Module, cut: Cut, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Fit the layers that read removed channels, change `smaller`, and return its new tensors.

    With inputs x of a layer, removed ones are predicted from kept ones, x_r ≈ μ_r + B (x_k - μ_k)
    with B = C_rk (C_kk + λ I)⁻¹. So W_k gets W_r B and the bias W_r (μ_r - B μ_k). Layers read
    by functions instead of their module, and grouped convolutions, are left as they are.
    """
    layers = {
        name.rpartition(".")[0]: indices
        for (name, axis), indices in cut.kept.items()
        if axis == 1 and name.endswith(".weight") and _can_compensate(model.get_submodule(name.rpartition(".")[0]))
    }
    moments = _measure_inputs(model, layers, batches)
    tensors, replaced = get_tensors(smaller), {}
    for name, sums in moments.items():
        layer = model.get_submodule(name)
        kept = torch.from_numpy(layers[name])
        gone = torch.from_numpy(np.setdiff1d(np.arange(len(sums.total)), layers[name]))
        mean = sums.total / sums.count
        covariance = sums.products / sums.count - torch.outer(mean, mean)
        inner = covariance[kept][:, kept]
        penalty = _PENALTY * inner.diagonal().mean().clamp_min(1e-12) * torch.eye(len(kept), dtype=torch.float64)
        map_back = torch.linalg.solve(inner + penalty, covariance[kept][:, gone]).T  # [gone, kept]
        weight = layer.get_parameter("weight").double()
        rows = cut.kept.get((f"{name}.weight", 0))
        if rows is not None:
            weight = weight[torch.from_numpy(rows)]
        added = torch.einsum("or...,rk->ok...", weight[:, gone], map_back)
        replaced[f"{name}.weight"] = (weight[:, kept] + added).float()
        if f"{name}.bias" in tensors:
            shift = mean[gone] - map_back @ mean[kept]
            sums_of_kernel = weight[:, gone].flatten(2).sum(2) if weight.ndim > 2 else weight[:, gone]
            replaced[f"{name}.bias"] = (tensors[f"{name}.bias"].double() + sums_of_kernel @ shift).float()
    for name, value in replaced.items():
        tensors[name].data.copy_(value)
    return replaced


def _can_compensate(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _measure_inputs(model: nn.Module, layers: Mapping[str, Any], batches: Iterable[Batch]) -> dict[str, _Moments]:
    moments: dict[str, _Moments] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().double()
        rows = values.movedim(1, -1).flatten(0, -2) if isinstance(module, nn.Conv2d) else values.flatten(0, -2)
        sums = moments.setdefault(
            name, _Moments(0, rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1], rows.shape[1]))
        )
        sums.count += len(rows)
        sums.total += rows.sum(0)
        sums.products += rows.T @ rows

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(record, name)) for name in layers]
    try:
        model.eval()
        for batch in batches:
            model(batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return moments


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Measure running statistics again as means over `batches`; change `model` and return them."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not layers:
        return {}
    model.eval()
    momenta = {name: layer.momentum for name, layer in layers.items()}
    counts = {name: layer.num_batches_tracked for name, layer in layers.items()}
    for layer in layers.values():
        layer.train()
        layer.momentum, layer.num_batches_tracked = None, torch.tensor(0)
    for batch in batches:
        if len(batch) > 1:
            model(batch.inputs)
    for name, layer in layers.items():
        layer.momentum, layer.num_batches_tracked = momenta[name], counts[name]
        layer.eval()
    return {
        f"{name}.{key}": layer.get_buffer(key).clone()
        for name, layer in layers.items()
        for key in ("running_mean", "running_var")
    }
