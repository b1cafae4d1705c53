"""Run a frozen teacher on the student's inputs, and add its outputs to the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.choices.distill._load_teacher import TeacherModel
from dnntrain.choices.distill._options import TeacherOptions
from dnntrain.choices.distill._teacher_cache import TeacherCache, digest_images
from dnntrain.errors import ConfigError
from dnntrain.nn.partition import find_blocks
from dnntrain.protocols import (
    Batch,
    BuildContext,
    StepInfo,
)
from dnntrain.utils.hardware import get_device_type
from dnntrain.utils.rng import Key

#: Name of the teachers' logits in the extras of a batch: [n, teachers, classes].
LOGITS = "teacher.logits"

#: Number of weights from which teachers are sharded if the layout shards weights.
_SHARD_MIN_PARAMETERS = 50_000_000


def identity(output: Tensor) -> Tensor:
    """Return `output` unchanged."""
    return output


@dataclass(frozen=True)
class TeacherTap:
    """An inner module of the teacher whose output is kept.

    `reduce` of the output is kept under `name`.
    """

    name: str
    module: str
    reduce: Callable[[Tensor], Tensor] = identity


def check_precision(precision: str, device: str) -> None:
    """Raise ConfigError if the device does not support `precision`."""
    if precision == "fp16" and not device.startswith("cuda"):
        raise ConfigError("distill.teacher_precision=fp16 needs a GPU", "use distill.teacher_precision=bf16 or fp32")


def teacher_autocast(precision: str, device: str) -> torch.autocast:
    """Return the autocast context in which a teacher runs."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(get_device_type(device), dtype, enabled=precision != "fp32")


class TeacherRunner:
    """Compute the outputs of the teachers, in eval mode and without gradient.

    Each forward pass has the same number of examples, filled up with zeros, at the same memory
    address. Therefore an example's outputs do not depend on the number of other examples, and are the
    same on every layout and from the cache.

    `sharded`: the weights are sharded over ranks. The ranks then run the teacher together, each as
    often as the rank with the most examples.
    """

    def __init__(
        self,
        teachers: Sequence[TeacherModel],
        context: BuildContext,
        options: TeacherOptions,
        taps: Sequence[TeacherTap],
        logits: bool,
    ) -> None:
        self._device = context.device
        self._precision = options.teacher_precision
        self._taps, self._logits, self._compile = taps, logits, options.teacher_compile
        self.models = [teacher.model for teacher in teachers]
        self._affine = [compute_renormalization(context, teacher) for teacher in teachers]
        self._rescaling = [compute_rescaling(context, teacher) for teacher in teachers]
        self._convolutional = any(isinstance(module, nn.Conv2d) for model in self.models for module in model.modules())
        self._collect = context.collectives
        self.sharded = should_shard(options, context.collectives.shard_ranks, self.models)
        self._buffer = torch.empty(0)
        self._ready = False
        self._shape = (options.teacher_batch_size, *context.spec.inputs.shape)
        self._dtype = context.spec.inputs.make_zeros(0).dtype
        self.shapes = {
            name: tuple(output.shape[1:]) for name, output in self._forward(context.spec.inputs.make_zeros(1)).items()
        }
        tap_text = ", ".join(f"{tap.name}={tap.module} by {getattr(tap.reduce, '__name__', '')}" for tap in taps)
        self.described = (
            f"{options.teacher_precision} {options.teacher_compile} {options.teacher_batch_size} {logits} {tap_text}"
            + "".join(f" {[part.tolist() for part in pair]}" for pair in self._rescaling if pair is not None)
        )

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name, float32 [n, …]."""
        if not self._ready:
            self._move_to_device()
        size = len(self._buffer)
        chunk_outputs: list[dict[str, Tensor]] = []
        for start in range(0, size * self.max_over_ranks(math.ceil(len(inputs) / size)), size):
            chunk = inputs[start : start + size]
            self._buffer[: len(chunk)].copy_(chunk)
            self._buffer[len(chunk) :] = 0
            chunk_outputs.append(
                {name: output[: len(chunk)].clone() for name, output in self._forward(self._buffer).items()}
            )
        if not chunk_outputs:
            return {name: torch.empty(0, *shape, device=self._device) for name, shape in self.shapes.items()}
        return {name: torch.cat([outputs[name] for outputs in chunk_outputs]) for name in self.shapes}

    def max_over_ranks(self, value: int) -> int:
        """Return the largest `value` of the ranks that run the teacher together."""
        if not self.sharded:
            return value
        return int(self._collect.data_max(torch.tensor(float(value), device=self._device)))

    @torch.no_grad()
    def depends_on_neighbors(self, inputs: Tensor) -> bool:
        """Return whether an example's outputs depend on its place or its neighbors.

        True if any bit differs by the place in the batch or the examples around it.
        """
        size = self._shape[0]
        inputs = inputs[:size]
        single_outputs = self(inputs)
        shifted_outputs = self(torch.cat([inputs.flip(0), inputs])[1 : len(inputs) + 1])
        shifted_rows = torch.tensor(range(len(inputs) - 2, -1, -1), dtype=torch.int64)
        return any(
            not torch.equal(single_outputs[name][shifted_rows], shifted_outputs[name][: len(shifted_rows)])
            for name in self.shapes
        )

    def _move_to_device(self) -> None:
        memory_format = torch.channels_last if self._convolutional else torch.contiguous_format
        for model in self.models:
            model.to(self._device)
            if self.sharded:  # shards are contiguous; the memory format of the inputs selects the kernel
                self._collect.shard(model, find_blocks(model))
            else:
                model.to(memory_format=memory_format)
            if self._compile:
                model.compile()
        self._buffer = torch.empty(self._shape, dtype=self._dtype, device=self._device, memory_format=memory_format)
        self._ready = True

    @torch.no_grad()
    def _forward(self, inputs: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        logits = []
        for model, affine, rescaling in zip(self.models, self._affine, self._rescaling, strict=True):
            teacher_inputs = (
                inputs if affine is None else inputs * affine[0].to(inputs.device) + affine[1].to(inputs.device)
            )
            features: dict[str, Tensor] = {}
            with ExitStack() as stack:
                for tap in self._taps:
                    hook = model.get_submodule(tap.module).register_forward_hook(
                        partial(_store_output, features, tap.name)
                    )
                    stack.callback(hook.remove)
                stack.enter_context(teacher_autocast(self._precision, inputs.device.type))
                rows = model(teacher_inputs)
            logits.append(rows if rescaling is None else rescale(rows, *rescaling))
            outputs |= {tap.name: tap.reduce(features[tap.name].float()) for tap in self._taps}
        if self._logits:
            outputs[LOGITS] = torch.stack([rows.float() for rows in logits], 1)
        return outputs


def should_shard(options: TeacherOptions, ranks: int, models: Sequence[nn.Module]) -> bool:
    """Return whether to shard the teachers' weights over the ranks that can share them."""
    if ranks == 1 or options.teacher_shard == "never" or options.teacher_compile:
        return False
    num_parameters = sum(parameter.numel() for model in models for parameter in model.parameters())
    return options.teacher_shard == "always" or num_parameters >= _SHARD_MIN_PARAMETERS


def _store_output(features: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    # Not a copy: if the next operation works in place, the student's features are also taken after it.
    features[name] = output


def compute_renormalization(context: BuildContext, teacher: TeacherModel) -> tuple[Tensor, Tensor] | None:
    """Return (scale, shift) to the teacher's normalization: [channels, 1, 1] of images, [columns] of rows.

    They apply to inputs with the data's normalization. Returns None if the two normalizations
    agree.
    """
    data, wanted = context.spec.inputs, teacher.spec.inputs
    if not data.mean or (data.mean, data.std) == (wanted.mean, wanted.std):
        return None
    shape = (-1, *[1] * (len(data.shape) - 1))
    mean, std, teacher_mean, teacher_std = (
        torch.tensor(values, dtype=torch.float64).view(shape)
        for values in (data.mean, data.std, wanted.mean, wanted.std)
    )
    return (std / teacher_std).float(), ((mean - teacher_mean) / teacher_std).float()


def compute_rescaling(context: BuildContext, teacher: TeacherModel) -> tuple[Tensor, Tensor] | None:
    """Return (scale, shift) [targets] from the teacher's standardized estimates to those of the data.

    Both are standardized by their own training examples. Returns None for logits, and if the two agree.
    """
    data, wanted = context.spec.output, teacher.spec.output
    if not data.mean or len(data.mean) != len(wanted.mean) or (data.mean, data.std) == (wanted.mean, wanted.std):
        return None
    mean, std, teacher_mean, teacher_std = (
        torch.tensor(values, dtype=torch.float64) for values in (data.mean, data.std, wanted.mean, wanted.std)
    )
    return (teacher_std / std).float(), ((teacher_mean - mean) / std).float()


def rescale(estimates: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return estimates * scale + shift, float32 [n, targets]."""
    return estimates.float() * scale.to(estimates.device) + shift.to(estimates.device)


class TeacherTransform:
    """Add the teacher's outputs to a batch, computed or from the cache."""

    def __init__(self, runner: TeacherRunner, store: TeacherCache | None) -> None:
        self._runner, self._store = runner, store
        self._checked = store is None

    def __call__(self, batch: Batch, key: Key) -> Batch:
        outputs = (
            self._runner(batch.inputs) if self._store is None else self._compute_or_read(batch.inputs, self._store)
        )
        batch.extras = {**batch.extras, **outputs}
        return batch

    def _compute_or_read(self, inputs: Tensor, store: TeacherCache) -> dict[str, Tensor]:
        if not self._checked and self._runner.max_over_ranks(len(inputs)) > 1:
            self._checked = True
            if self._runner.max_over_ranks(self._runner.depends_on_neighbors(inputs)):
                raise ConfigError(
                    "the teacher's outputs for an image depend on the images beside it, so they cannot be cached exactly",
                    "use distill.cache=none",
                )
        digests = digest_images(inputs)
        places = store.locate(digests)
        missing_rows = np.flatnonzero(places[:, 0] < 0)
        if not self._runner.max_over_ranks(len(missing_rows)):
            return store.read_rows(places, inputs.device)
        new_outputs = self._runner(inputs[torch.from_numpy(missing_rows).to(inputs.device)])
        if len(missing_rows) < len(digests):
            known_rows = np.flatnonzero(places[:, 0] >= 0)
            known_outputs = store.read_rows(places[known_rows], inputs.device)
            order = torch.from_numpy(np.argsort(np.concatenate([missing_rows, known_rows]))).to(inputs.device)
            outputs = {name: torch.cat([new_outputs[name], known_outputs[name]])[order] for name in new_outputs}
        else:
            outputs = new_outputs
        store.add([digests[row] for row in missing_rows], new_outputs)
        return outputs


class CacheFlusher:
    """Write new outputs at the end of each epoch and of the run."""

    def __init__(self, store: TeacherCache, context: BuildContext) -> None:
        self._store, self._times, self._last = store, context.epoch_schedule, context.total_steps

    def __call__(self, step_info: StepInfo) -> None:
        steps_done = step_info.step + 1
        if self._times.locate_step(steps_done)[1] == 0 or steps_done == self._last:
            self._store.flush()
