"""Pipeline parallelism: stages, and the executor of torch's schedules.

A model is split between its sections (`nn/partition.py`).
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from dnntrain.distributed.loss_divisor import LossDivisor
from dnntrain.distributed.mesh import Mesh
from dnntrain.distributed.rng_replay import RngReplay
from dnntrain.nn.partition import get_sections
from dnntrain.protocols import Batch, ModelOutputs, PhaseMarker, StepBatch, StepLoss

LossFunction = Callable[[ModelOutputs, Batch], Tensor]


class StageModule(nn.Module):
    """Sections `first` to `last` (exclusive) of a model.

    The other sections of `model` are removed.
    """

    def __init__(self, model: nn.Module, first: int, last: int) -> None:
        super().__init__()
        self.model = model
        self._sections = get_sections(model)[first:last]
        self._run = [section.apply for section in self._sections]
        self.owns = [name for section in self._sections for name in section.owned_names]

    def forward(self, features: Tensor) -> Tensor:
        for apply in self._run:
            features = apply(features)
        return features


def copy_for_stages(model: nn.Module, count: int) -> list[nn.Module]:
    """Return `model` itself for one stage, or a copy of it for each of several stages.

    Call it before tensor or data parallelism changes the modules. The copies share the modules that
    no section owns (dropout).
    """
    return [model] if count == 1 else [copy.deepcopy(model, _get_shared_modules(model)) for _ in range(count)]


def make_stages(
    model: nn.Module, stage_models: Sequence[nn.Module], bounds: Sequence[int], rank_stages: Sequence[int]
) -> list[StageModule]:
    """Return the stages `rank_stages` of this rank, made from `stage_models` in order.

    Stage i has the sections bounds[i] to bounds[i + 1]. `model` keeps the sections of this rank only.
    Several stages are separate from it and from each other until `merge_stages`.
    """
    for stage_model, stage in zip(stage_models, rank_stages, strict=True):
        _keep_only_stages(stage_model, {stage}, bounds)
    _keep_only_stages(model, set(rank_stages), bounds)
    return [
        StageModule(stage_model, bounds[stage], bounds[stage + 1])
        for stage_model, stage in zip(stage_models, rank_stages, strict=True)
    ]


def merge_stages(model: nn.Module, stages: Sequence[StageModule]) -> nn.Module:
    """Return `model` with the modules and parameters of `stages`."""
    for stage in stages:
        if stage.model is not model:
            for name in stage.owns:
                _graft(model, stage.model, name)
    return model


def _get_shared_modules(model: nn.Module) -> dict[int, Any]:
    """Return the modules of which no section owns any part, by id."""
    owned_names = [name for section in get_sections(model) for name in section.owned_names]
    return {
        id(module): module
        for path, module in model.named_modules()
        if path
        and not any(f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.") for name in owned_names)
    }


def _keep_only_stages(model: nn.Module, stages: set[int], bounds: Sequence[int]) -> None:
    for section_index, section in enumerate(get_sections(model)):
        if bisect_right(bounds, section_index) - 1 not in stages:
            for name in section.owned_names:
                parent_name, _, child_name = name.rpartition(".")
                parent = model.get_submodule(parent_name)
                if child_name in parent._parameters:
                    parent.register_parameter(child_name, None)
                else:
                    parent.register_module(child_name, nn.Identity())


def _graft(model: nn.Module, stage_model: nn.Module, name: str) -> None:
    parent_name, _, child_name = name.rpartition(".")
    parent, source = model.get_submodule(parent_name), stage_model.get_submodule(parent_name)
    if child_name in source._parameters:
        parent.register_parameter(child_name, source._parameters[child_name])
    else:
        parent.register_module(child_name, source._modules[child_name])


class PipelineExecutor:
    """The executor of pipelines: runs micro-batches through the stages of all ranks.

    All micro-batches have one shape. Smaller ones are padded with zeros, whose outputs do not enter the
    loss; missing ones are padding only. Steps of another length of sequences get a schedule of their
    own, because its messages have fixed shapes. Losses are sums, multiplied by the factor of `divisor` as in
    `SpmdExecutor`, and gradients are not divided by the number of micro-batches.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        indices: Sequence[int],
        objective: LossFunction,
        mesh: Mesh,
        *,
        schedule: str,
        micro_batch_size: int,
        micro_batches: int,
        evaluation_size: int,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        divisor: LossDivisor,
        device: str,
        should_count: bool,
        input_dtype: torch.dtype = torch.float32,
        replayable: bool = False,
    ) -> None:
        self._objective = objective
        self._micro_batch_size, self._micro_batches = micro_batch_size, micro_batches
        self._input_shape, self._output_shape, self._input_dtype = input_shape, output_shape, input_dtype
        self._divide = divisor
        self._device, self._counts = torch.device(device), should_count
        self._is_first, self._is_last = 0 in indices, (mesh.degrees.pp * len(indices) - 1) in indices
        self._padded: list[Batch] = []
        self._losses: dict[int, Tensor] = {}
        self._weight = torch.ones((), device=device)
        self._random = RngReplay(device) if replayable else None
        self._evaluation_parts = mesh.degrees.pp
        self._evaluation_size = -(-evaluation_size // self._evaluation_parts)
        self._mark: PhaseMarker = nullcontext
        self._make_train = partial(
            _make_schedule, schedule, modules, indices, mesh, device, micro_batches, self._compute_loss
        )
        self._train, self._train_shape = self._make_train(), input_shape
        self._eval = _make_schedule(schedule, modules, indices, mesh, device, self._evaluation_parts, None)

    def compute_gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss:
        """Add the gradients of the step to `.grad` and return its loss.

        `replay` repeats the random numbers of the previous call (dropout).
        """
        with self._mark("forward and backward"):
            return self._run_schedule(batch, replay)

    def mark_phases(self, mark: PhaseMarker) -> None:
        """Compute the passes, which overlap on a pipeline, within one mark from now on."""
        self._mark = mark

    def suspend_sync(self) -> AbstractContextManager[None]:
        """Return a context without effect: the stages of a pipeline need each other in every pass."""
        return nullcontext()

    def _run_schedule(self, batch: StepBatch, replay: bool) -> StepLoss:
        if self._random is not None:
            self._random.begin_pass(replay)
        self._padded = [*batch.micro_batches]
        self._weight, divisor = self._divide(batch)
        self._losses = {}
        count = self._micro_batches
        shape = self._input_shape if batch.seq_len is None else (batch.seq_len,)
        if shape != self._train_shape:
            self._train, self._train_shape = self._make_train(), shape
        # The schedule cuts inputs and targets into `count` equal parts: the micro-batches and their numbers.
        self._train.step(
            *([self._join_inputs(shape)] if self._is_first else []),
            target=torch.arange(count) if self._is_last else None,
            losses=[] if self._is_last else None,
            return_outputs=False,
        )
        total = torch.zeros((), device=self._device)
        if self._counts:
            total = torch.stack([self._losses[micro_index] for micro_index in sorted(self._losses)]).sum()
        return StepLoss(total, batch.examples, divisor)

    @torch.no_grad()
    def compute_outputs(self, batch: Batch) -> Tensor:
        """Return the outputs [n, …] on ranks of the last stage, else zeros."""
        size, count = self._evaluation_size, self._evaluation_parts
        inputs = self._pad_inputs(batch, size * count, self._input_shape)
        stage_outputs = self._eval.eval(*([inputs] if self._is_first else []))
        if not self._is_last:
            return torch.zeros(len(batch), *self._output_shape, device=self._device)
        outputs: Tensor = stage_outputs[: len(batch)]
        return outputs

    def _get_micro_batch(self, micro_index: int) -> Batch | None:
        return self._padded[micro_index] if micro_index < len(self._padded) else None

    def _join_inputs(self, shape: tuple[int, ...]) -> Tensor:
        """Return the inputs of all micro-batches of the step, each padded to the same size."""
        return torch.cat(
            [
                self._pad_inputs(self._get_micro_batch(micro_index), self._micro_batch_size, shape)
                for micro_index in range(self._micro_batches)
            ]
        )

    def _pad_inputs(self, batch: Batch | None, size: int, shape: tuple[int, ...]) -> Tensor:
        """Return the inputs of a batch, padded with zeros to `size` examples."""
        count = 0 if batch is None else len(batch)
        if batch is not None and count == size:
            return batch.inputs
        inputs = torch.zeros(size, *shape, dtype=self._input_dtype, device=self._device)
        if batch is not None:
            inputs[:count] = batch.inputs
        return inputs

    def _compute_loss(self, outputs: Tensor, micro_index: Tensor) -> Tensor:
        """Return the weighted loss of a micro-batch.

        If it is padding only, the loss is a zero with a gradient path to every weight.
        """
        micro_batch = self._get_micro_batch(int(micro_index))
        if micro_batch is None or not len(micro_batch):
            self._losses[int(micro_index)] = torch.zeros((), device=self._device)
            return outputs.sum() * 0.0
        loss = self._objective(ModelOutputs(outputs[: len(micro_batch)], {}), micro_batch)
        self._losses[int(micro_index)] = loss.detach()
        return loss * self._weight


def _make_schedule(
    kind: str,
    modules: Sequence[nn.Module],
    indices: Sequence[int],
    mesh: Mesh,
    device: str,
    micro_batches: int,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None,
) -> Any:
    total = mesh.degrees.pp * len(indices)
    group = mesh.pipeline.get_group()
    stages = [
        PipelineStage(module, index, total, torch.device(device), group=group)
        for module, index in zip(modules, indices, strict=True)
    ]
    options: dict[str, Any] = {"n_microbatches": micro_batches, "loss_fn": loss_fn, "scale_grads": False}
    if kind == "interleaved":
        return ScheduleInterleaved1F1B(list(stages), **options)
    return {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[kind](stages[0], **options)


def autocast_forward(module: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Run the forward pass of `module` under autocast.

    torch's schedules call the module themselves.
    """
    inner = module.forward

    def forward(features: Tensor) -> Any:
        with torch.autocast(device_type, dtype):
            return inner(features)

    module.forward = forward
