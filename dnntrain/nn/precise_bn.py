"""Statistics of the weights that are evaluated (PreciseBN; Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.protocols import Built, Moment
from dnntrain.utils.dtensor import fill_named, local


class PreciseStatistics:
    """Running statistics recomputed over `batches` training steps, in place while the model is evaluated and exported.

    mean = Σ n_b mean_b / Σ n_b and var = Σ n_b (var_b + mean_b²) / Σ n_b - mean², over the batches b of all ranks. The pass is made
    once per state of the weights; its result is part of the state, so that the best checkpoint holds the statistics of its weights.
    """

    replaces = "statistics"

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._fresh = False
        self._statistics: dict[str, Tensor] = {}
        self._layers: dict[str, _BatchNorm] = {}

    def bind(self, built: Built) -> None:
        self._built = built
        self._layers = {
            name: module
            for name, module in built.model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        self._statistics = {
            f"{name}.{key}": torch.zeros_like(getattr(module, key))
            for name, module in self._layers.items()
            for key in ("running_mean", "running_var")
        }

    def __call__(self, moment: Moment) -> None:
        self._fresh = False

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        if not self._fresh:
            self._recompute(model)
            self._fresh = True
        kept = self._swap_in()
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _recompute(self, model: nn.Module) -> None:
        sums = {name: torch.zeros_like(moments(_none_of(module))) for name, module in self._layers.items()}
        kept = {
            module: {key: tensor.clone() for key, tensor in module.named_buffers(recurse=False)}
            for module in self._layers.values()
        }
        was_training = model.training
        with ExitStack() as stack:
            for name, module in self._layers.items():
                hook = module.register_forward_pre_hook(partial(_add, sums[name]))
                stack.callback(hook.remove)
            # Only batch normalisation trains: dropout is off, as in the evaluation, and draws no random numbers.
            model.eval()
            for module in self._layers.values():
                module.training = True
            for batch in self._built.training_batches(self._batches):
                model(batch.images)
        model.train(was_training)
        for module, buffers in kept.items():
            for key, tensor in buffers.items():
                module.get_buffer(key).copy_(tensor)
        totals = self._built.collect.data_sum(torch.cat(list(sums.values())))
        for name, total in zip(sums, torch.split(totals, [len(item) for item in sums.values()]), strict=True):
            mean, var = population(total)
            local(self._statistics[f"{name}.running_mean"]).copy_(mean)
            local(self._statistics[f"{name}.running_var"]).copy_(var)

    @torch.no_grad()
    def _swap_in(self) -> dict[str, Tensor]:
        live = self._live()
        kept = {name: tensor.clone() for name, tensor in live.items()}
        self._put(self._statistics)
        return kept

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live().items():
            tensor.copy_(values[name])

    def _live(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": module.get_buffer(key)
            for name, module in self._layers.items()
            for key in ("running_mean", "running_var")
        }

    def state_dict(self) -> dict[str, Any]:
        return {"fresh": self._fresh, "statistics": dict(self._statistics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._fresh = bool(state["fresh"])
        fill_named(self._statistics, state["statistics"])


def moments(inputs: Tensor) -> Tensor:
    """float64 [2 * channels + 1]: n * mean, n * (var + mean²) of each channel of `inputs` [examples, channels, …], and n.

    The sum of it over several tensors holds mean and variance of all their numbers: `population`. Differentiable; zeros for no example.
    """
    rest = [dim for dim in range(inputs.ndim) if dim != 1]
    wide = torch.float32 if inputs.device.type == "mps" else torch.float64
    count = inputs.numel() // max(inputs.shape[1], 1)
    if count == 0:
        # Sums over nothing, which keep the place in the graph: what is computed backward must be so on all ranks.
        nothing = inputs.sum(rest).to(wide)
        return torch.cat([nothing, nothing, nothing.new_zeros(1)])
    var, mean = torch.var_mean(inputs.float(), rest, correction=0)
    var, mean = var.to(wide), mean.to(wide)
    return torch.cat([count * mean, count * (var + mean.square()), mean.new_full((1,), count)])


def population(total: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance), float64 [channels] each, of a sum of `moments`."""
    channels = len(total) // 2
    first, second, count = total[:channels], total[channels:-1], total[-1]
    mean = first / count
    return mean, (second / count - mean.square()).clamp_min(0)


def _add(total: Tensor, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    total += moments(inputs[0])


def _none_of(module: _BatchNorm) -> Tensor:
    """Inputs of a layer without an example."""
    assert module.running_mean is not None
    channels = local(module.running_mean)
    return channels.new_empty(0, len(channels))
