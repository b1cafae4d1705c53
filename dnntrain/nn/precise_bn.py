"""Recompute batch-norm statistics for the weights that are evaluated (PreciseBN).

Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.nn.freezing import is_frozen_norm
from dnntrain.nn.placeholder_rows import fill_empty, ignore_rows, is_ignoring_rows
from dnntrain.protocols import StepInfo, TrainerHandles
from dnntrain.utils.dtensor import fill_tensors, local_shard


class PreciseStatistics:
    """Running statistics over training steps, swapped in for evaluation and export.

    mean = Σ n_b mean_b / Σ n_b and var = Σ n_b (var_b + mean_b²) / Σ n_b - mean², over the batches
    b of all ranks. The pass runs once per state of the weights. Its result is part of the state, so
    that the best checkpoint holds the statistics of its weights.
    """

    replaces = "statistics"

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._is_fresh = False
        self._statistics: dict[str, Tensor] = {}
        self._layers: dict[str, _BatchNorm] = {}

    def bind(self, handles: TrainerHandles) -> None:
        self._handles = handles
        self._layers = {
            name: module
            for name, module in handles.model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        self._statistics = {
            f"{name}.{key}": torch.zeros_like(getattr(module, key))
            for name, module in self._layers.items()
            for key in ("running_mean", "running_var")
        }

    def __call__(self, step_info: StepInfo) -> None:
        self._is_fresh = False

    @contextmanager
    def swap_in(self, model: nn.Module) -> Iterator[None]:
        if not self._is_fresh:
            self._recompute(model)
            self._is_fresh = True
        previous_values = self._exchange_buffers()
        try:
            yield
        finally:
            self._fill_buffers(previous_values)

    @torch.no_grad()
    def _recompute(self, model: nn.Module) -> None:
        layers = {name: module for name, module in self._layers.items() if not is_frozen_norm(module)}
        sums = {name: torch.zeros_like(compute_moments(_make_empty_inputs(module))) for name, module in layers.items()}
        buffer_backups = {
            module: {key: tensor.clone() for key, tensor in module.named_buffers(recurse=False)}
            for module in self._layers.values()
        }
        was_training = model.training
        with ExitStack() as stack:
            for name, module in layers.items():
                hook = module.register_forward_pre_hook(partial(_add_moments, sums[name]))
                stack.callback(hook.remove)
            # Only batch normalization is in training mode: dropout is off, as in evaluation, and
            # draws no random numbers.
            model.eval()
            for module in layers.values():
                module.training = True
            for batch in self._handles.training_batches(self._batches):
                with nullcontext() if len(batch) else ignore_rows(model):
                    model(fill_empty(batch.inputs))
        model.train(was_training)
        for module, buffers in buffer_backups.items():
            for key, tensor in buffers.items():
                module.get_buffer(key).copy_(tensor)
        for name, tensor in self._get_live_buffers().items():  # those of frozen layers stay
            local_shard(self._statistics[name]).copy_(local_shard(tensor))
        if not sums:
            return
        totals = self._handles.collectives.data_sum(torch.cat(list(sums.values())))
        for name, total in zip(sums, torch.split(totals, [len(item) for item in sums.values()]), strict=True):
            mean, var = compute_population(total)
            local_shard(self._statistics[f"{name}.running_mean"]).copy_(mean)
            local_shard(self._statistics[f"{name}.running_var"]).copy_(var)

    @torch.no_grad()
    def _exchange_buffers(self) -> dict[str, Tensor]:
        live_buffers = self._get_live_buffers()
        previous_values = {name: tensor.clone() for name, tensor in live_buffers.items()}
        self._fill_buffers(self._statistics)
        return previous_values

    @torch.no_grad()
    def _fill_buffers(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._get_live_buffers().items():
            tensor.copy_(values[name])

    def _get_live_buffers(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": module.get_buffer(key)
            for name, module in self._layers.items()
            for key in ("running_mean", "running_var")
        }

    def state_dict(self) -> dict[str, Any]:
        return {"fresh": self._is_fresh, "statistics": dict(self._statistics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._is_fresh = bool(state["fresh"])
        fill_tensors(self._statistics, state["statistics"])


def compute_moments(inputs: Tensor) -> Tensor:
    """Return n * mean and n * (var + mean²) per channel, and n.

    The result is float64 [2 * channels + 1]. `inputs` is [examples, channels, …]. The sum over
    several tensors gives mean and variance of all their numbers; see `compute_population`.
    Differentiable; zeros if there is no example.
    """
    other_dims = [dim for dim in range(inputs.ndim) if dim != 1]
    wide_dtype = torch.float32 if inputs.device.type == "mps" else torch.float64
    count = inputs.numel() // max(inputs.shape[1], 1)
    if count == 0:
        # Empty sums, which keep the place in the graph: all ranks must run the same backward pass.
        zero_sums = inputs.sum(other_dims).to(wide_dtype)
        return torch.cat([zero_sums, zero_sums, zero_sums.new_zeros(1)])
    var, mean = torch.var_mean(inputs.float(), other_dims, correction=0)
    var, mean = var.to(wide_dtype), mean.to(wide_dtype)
    return torch.cat([count * mean, count * (var + mean.square()), mean.new_full((1,), count)])


def compute_population(total: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, variance) from a sum of `compute_moments`, float64 [channels]."""
    channels = len(total) // 2
    mean_sum, square_sum, count = total[:channels], total[channels:-1], total[-1]
    mean = mean_sum / count
    return mean, (square_sum / count - mean.square()).clamp_min(0)


def _add_moments(total: Tensor, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if not is_ignoring_rows():
        total += compute_moments(inputs[0])


def _make_empty_inputs(module: _BatchNorm) -> Tensor:
    """Return inputs of a layer with no example."""
    assert module.running_mean is not None
    channels = local_shard(module.running_mean)
    return channels.new_empty(0, len(channels))
