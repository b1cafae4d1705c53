"""Replacement of the batch normalization of any model by other layers under the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.config.fields import NonNegativeInt
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.nn.precise_bn import PreciseStatistics
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Hooks,
    ModelStage,
    ModelTransform,
    NormChoice,
    NormFacts,
    Refusal,
    Role,
    RunFacts,
)


@dataclass(frozen=True)
class BatchNormChoice(NormChoice):
    """Base class of choices that keep batch normalization and change its statistics.

    The export has the layers of the model as it was built.
    """

    precise_bn_batches: NonNegativeInt = (
        0  # training batches that recompute the statistics before each evaluation; 0: running statistics
    )

    @property
    def recomputed_batches(self) -> int:
        return self.precise_bn_batches

    def get_claims(self) -> Iterator[Claim]:
        if self.precise_bn_batches:
            yield Claim(
                Role.BATCH_NORM_STATISTICS,
                f"norm.precise_bn_batches={self.precise_bn_batches}",
                "use norm.precise_bn_batches=0",
            )

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        if self.precise_bn_batches and not facts.has_validation:
            yield Refusal(
                f"norm.precise_bn_batches={self.precise_bn_batches} recomputes statistics for each evaluation, "
                "but data.val_fraction=0 leaves none",
                "set data.val_fraction=0.1, or norm.precise_bn_batches=0",
            )

    def find_layout_refusals(self, dims: ParallelDims) -> Iterator[Refusal]:
        if self.precise_bn_batches and dims.pp > 1:
            yield Refusal(
                f"norm.precise_bn_batches={self.precise_bn_batches} needs the whole model, "
                "but a pipeline rank holds one stage",
                "use norm.precise_bn_batches=0, or another layout",
            )

    def build_hooks(self, context: BuildContext, name: str) -> Hooks:
        """Return hooks for the conversion, its inverse for the export, and statistics.

        Statistics are recomputed only if `precise_bn_batches` is above 0.
        """
        transform = ModelTransform(ModelStage.NORM, lambda model: self.convert(model, context.collectives))
        if not self.precise_bn_batches:
            return Hooks(model_transforms=(transform,), export_transforms=(restore_batch_norms,))
        view = PreciseStatistics(self.precise_bn_batches)
        return Hooks(
            model_transforms=(transform,),
            export_transforms=(restore_batch_norms,),
            eval_weights=(view,),
            after_step_hooks=(view,),
            state={name: view},
            bindings=(view.bind,),
        )


class BatchNormVariant(_BatchNorm):
    """Batch normalization with another rule for its statistics, `normalize`.

    Dropout and activation that a layer of timm applies after it are kept. `change_layer_class`
    replaces the class of an existing layer, so that parameters, buffers, names and hooks stay as
    they are.
    """

    original_class: type[_BatchNorm]

    def normalize(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        return apply_drop_and_act(self, self.normalize(input))

    def apply_torch_norm(self, inputs: Tensor) -> Tensor:
        """Apply torch's batch normalization in the layer's mode, running statistics included."""
        return super().forward(inputs)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of pixel dimensions."""

    @torch.no_grad()
    def update_running_stats(self, mean: Tensor, var: Tensor, updates: Tensor | int = 1) -> None:
        """Move the running statistics toward `mean` and unbiased `var` [channels].

        They move as far as `updates` updates by the momentum would move them.
        """
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(torch.as_tensor(updates).to(self.num_batches_tracked))
        # As a tensor, so that the host does not wait for the device.
        count = torch.as_tensor(updates, dtype=self.running_mean.dtype, device=self.running_mean.device)
        share = count / self.num_batches_tracked if self.momentum is None else 1 - (1 - self.momentum) ** count
        self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.detach().to(self.running_var.dtype), share)


def apply_drop_and_act(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return `outputs` after the dropout and the activation that a layer of timm holds."""
    for name in ("drop", "act"):
        inner = layer._modules.get(name)
        if inner is not None:
            outputs = inner(outputs)
    return outputs


def find_batch_norms(model: nn.Module, choice: str) -> dict[str, _BatchNorm]:
    """Return the batch normalization layers by name.

    Raises ConfigError if there is none, or if one defines its own forward pass.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not layers:
        raise ConfigError(
            f"norm={choice} changes batch normalization, and this model has none",
            "use norm=none, or a model with batch normalization, such as model=resnet20",
        )
    for name, module in layers.items():
        if not _is_known(module):
            raise ConfigError(
                f"norm={choice} cannot change {name} because {type(module).__name__} defines its own forward pass",
                "use norm=none",
            )
    return layers


def change_layer_class(
    model: nn.Module, choice: str, layer_class: type[BatchNormVariant], **values: object
) -> nn.Module:
    """Change the class of each batch normalization layer of `model` to `layer_class`.

    This is done in place; `values` become attributes of the layers.
    """
    for module in find_batch_norms(model, choice).values():
        original_class = type(module)
        module.__class__ = layer_class
        for name, value in {"original_class": original_class, **values}.items():
            setattr(module, name, value)
    return model


def restore_batch_norms(model: nn.Module) -> nn.Module:
    """Restore the batch normalization layers of `model` to their original classes."""
    for module in model.modules():
        if isinstance(module, BatchNormVariant):
            module.__class__ = module.original_class  # type: ignore[assignment]
    return model


def replace_batch_norms(model: nn.Module, choice: str, make: Callable[[_BatchNorm], nn.GroupNorm]) -> nn.Module:
    """Replace each batch normalization layer of `model` by `make(layer)`.

    The new layer takes over weight and bias.
    """
    for name, old in find_batch_norms(model, choice).items():
        new = make(old)
        if old.affine:
            new.weight, new.bias = old.weight, old.bias
        for inner in ("drop", "act"):
            if inner in old._modules:
                new.add_module(inner, old._modules[inner])
        new.train(old.training)
        _replace_everywhere(model, name, old, new)
    # The architecture is no longer one of timm's own.
    model.timm_architecture = None  # type: ignore[assignment]
    return model


def make_micro_batch_note(facts: NormFacts) -> tuple[str, ...]:
    """Return the note for a step with several forward passes, else nothing."""
    if facts.accumulation == 1:
        return ()
    return (f"batch normalization: each micro-batch of {facts.micro_batch_size} examples has its own statistics",)


def make_local_note(facts: NormFacts) -> tuple[str, ...]:
    """Return the note for ranks that each have their own statistics."""
    if facts.ranks == 1:
        return make_micro_batch_note(facts)
    return (
        f"batch normalization: each rank normalizes with the statistics of its own {facts.micro_batch_size} examples, "
        "so losses differ from a run in one process; norm=sync shares the statistics",
    )


def _replace_everywhere(model: nn.Module, name: str, old: nn.Module, new: nn.Module) -> None:
    """Replace `old`, called `name`, at every place that holds it."""
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new
    if old is model:
        raise ConfigError(f"the model must not be a single {type(old).__name__}", f"use norm=none ({name or 'root'})")


def _is_known(module: _BatchNorm) -> bool:
    """Return whether the forward pass is torch's, or timm's with `apply_drop_and_act`."""
    torch_forwards = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return type(module).forward in torch_forwards or {"drop", "act"} <= module._modules.keys()
