"""Runs a frozen teacher on the student's views and puts its outputs beside the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.choices.distill._load_teacher import Loaded, load_teacher
from dnntrain.choices.distill._options import TeacherKnobs
from dnntrain.choices.distill._teacher_cache import Store, open_store, view_of
from dnntrain.errors import ConfigError
from dnntrain.nn.cost import forward_bytes
from dnntrain.nn.partition import blocks
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import (
    AfterStep,
    Batch,
    BatchStage,
    BatchTransform,
    Capture,
    Context,
    Held,
    LossTerm,
    Moment,
    Parts,
)
from dnntrain.utils.rng import Key

#: Name of the teachers' logits beside a batch: [n, teachers, classes].
LOGITS = "teacher.logits"

#: Numbers from which on teachers lie in parts where the layout cuts weights.
_LARGE = 50_000_000


def whole(output: Tensor) -> Tensor:
    """All of it."""
    return output


@dataclass(frozen=True)
class Tap:
    """What is kept of an inner module of the teacher: `reduce` of its output, under `name`."""

    name: str
    module: str
    reduce: Callable[[Tensor], Tensor] = whole


@dataclass(frozen=True)
class Taught:
    """What a method with a teacher fills its slots with; `shapes` of the teacher's outputs, of one example."""

    batch: tuple[BatchTransform, ...]
    after_step: tuple[AfterStep, ...]
    shapes: Mapping[str, tuple[int, ...]]
    held: Callable[[int], Held]

    def parts(self, task_weight: float, *loss: LossTerm, captures: Sequence[Capture] = ()) -> Parts:
        """The teacher's transforms, and the terms that compare the student with it."""
        return Parts(
            batch=self.batch,
            after_step=self.after_step,
            captures=tuple(captures),
            loss=loss,
            task_weight=task_weight,
            held=(self.held,),
        )


def taught(
    knobs: TeacherKnobs,
    context: Context,
    *,
    logits: bool = False,
    taps: Callable[[nn.Module], Sequence[Tap]] | None = None,
    relations_only: bool = False,
) -> Taught:
    """Loads and checks the teachers, and the transform that adds their `logits`, or what is tapped of the only one.

    `relations_only`: the logits are compared among examples, so that their classes do not matter. Raises ConfigError for whatever
    cannot work: nothing is computed or written before the first batch.
    """
    _check(knobs, context, one=taps is not None or relations_only)
    reads_classes = logits and not relations_only
    loaded = [
        context.once(("teacher", source), partial(load_teacher, source, context, reads_classes))
        for source in knobs.sources
    ]
    runner = Runner(loaded, context, knobs, taps(loaded[0].model) if taps else (), logits)
    store = open_store(knobs, context, runner.shapes, [*(teacher.digest for teacher in loaded), runner.described])
    teach = Teach(runner, store)
    flush = () if store is None or knobs.cache != "disk" else (_Flush(store, context),)
    transform = BatchTransform(BatchStage.TEACHER, teach, joint=runner.sharded)
    return Taught((transform,), flush, runner.shapes, partial(held, knobs, context, runner))


def held(knobs: TeacherKnobs, context: Context, runner: Runner, ranks: int) -> Held:
    """Bytes on each of `ranks` among which weights may lie in parts.

    weights      4 P of all P numbers; in parts 4 P / ranks, and the largest group that is gathered at once
    activations  teacher_batch (the images, and `forward_bytes` of the largest teacher, in teacher_precision) + the outputs of a micro-batch
    """
    sizes = [_bytes_of(model) for model in runner.models]
    weights = sum(sizes)
    if _sharded(knobs, ranks, runner.models):
        groups = [[_bytes_of(block) for block in blocks(model)] for model in runner.models]
        rest = [size - sum(group) for size, group in zip(sizes, groups, strict=True)]
        weights = math.ceil(weights / ranks) + max([*rest, *(size for group in groups for size in group)])
    shape = ModelShape(context.num_classes, *context.input_shape)
    number = 4 if knobs.teacher_precision == "fp32" else 2
    work = 4 * math.prod(context.input_shape) + max(forward_bytes(model, shape, number) for model in runner.models)
    outputs = 4 * sum(math.prod(output) for output in runner.shapes.values())
    return Held(weights, int(knobs.teacher_batch * work + context.micro_batch_size * outputs))


def _bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def check_precision(precision: str, device: str) -> None:
    """Raises ConfigError where the device does not compute in `precision`."""
    if precision == "fp16" and not device.startswith("cuda"):
        raise ConfigError("distill.teacher_precision=fp16 is for GPUs", "use distill.teacher_precision=bf16 or fp32")


def teacher_autocast(precision: str, device: str) -> torch.autocast:
    """The context in which a teacher is run."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.split(":")[0], dtype, enabled=precision != "fp32")


def _check(knobs: TeacherKnobs, context: Context, one: bool) -> None:
    if not knobs.sources:
        raise ConfigError("distill.teacher=[] names no teacher", "name a run directory, or use distill=self")
    if one and len(knobs.sources) > 1:
        raise ConfigError(
            f"distill.teacher names {len(knobs.sources)} teachers, whose features cannot be averaged",
            f"use distill.teacher={knobs.sources[0]}, or distill=kd, which averages outputs",
        )
    check_precision(knobs.teacher_precision, context.device)
    if knobs.teacher_shard == "always" and knobs.teacher_compile:
        raise ConfigError(
            "distill.teacher_compile=true: a teacher in parts is not compiled",
            "use distill.teacher_compile=false, or distill.teacher_shard=never",
        )
    if knobs.cache_dir is not None and knobs.cache != "disk":
        raise ConfigError(
            f"distill.cache_dir={knobs.cache_dir} has no effect with distill.cache={knobs.cache}",
            "use distill.cache=disk, or leave cache_dir out",
        )


class Runner:
    """Images → outputs of the teachers, in eval mode and without gradient.

    Each forward pass has the same number of images, filled up with zeros, in the same place of memory: so an example's outputs
    do not depend on how many others come with it, and are the same on every layout and from the cache.

    `sharded`: the weights lie in parts on the ranks, which then run it together, each as often as the one with the most images.
    """

    def __init__(
        self, loaded: Sequence[Loaded], context: Context, knobs: TeacherKnobs, taps: Sequence[Tap], logits: bool
    ) -> None:
        self._device = context.device
        self._precision = knobs.teacher_precision
        self._taps, self._logits, self._compile = taps, logits, knobs.teacher_compile
        self.models = [teacher.model for teacher in loaded]
        self._affine = [renormalisation(context, teacher) for teacher in loaded]
        self._convolutional = any(isinstance(module, nn.Conv2d) for model in self.models for module in model.modules())
        self._collect = context.collect
        self.sharded = _sharded(knobs, context.collect.shard_ranks, self.models)
        self._buffer = torch.empty(0)
        self._ready = False
        self._shape = (knobs.teacher_batch, *context.input_shape)
        self.shapes = {
            name: tuple(output.shape[1:]) for name, output in self._forward(torch.zeros(1, *self._shape[1:])).items()
        }
        tapped = ", ".join(f"{tap.name}={tap.module} by {getattr(tap.reduce, '__name__', '')}" for tap in taps)
        self.described = f"{knobs.teacher_precision} {knobs.teacher_compile} {knobs.teacher_batch} {logits} {tapped}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name, float32 [n, …]."""
        if not self._ready:
            self._prepare()
        size = len(self._buffer)
        found: list[dict[str, Tensor]] = []
        for start in range(0, size * self.most(math.ceil(len(images) / size)), size):
            part = images[start : start + size]
            self._buffer[: len(part)].copy_(part)
            self._buffer[len(part) :] = 0
            found.append({name: output[: len(part)].clone() for name, output in self._forward(self._buffer).items()})
        if not found:
            return {name: torch.empty(0, *shape, device=self._device) for name, shape in self.shapes.items()}
        return {name: torch.cat([outputs[name] for outputs in found]) for name in self.shapes}

    def most(self, number: int) -> int:
        """The largest `number` of the ranks that run the teacher together."""
        if not self.sharded:
            return number
        return int(self._collect.data_max(torch.tensor(float(number), device=self._device)))

    @torch.no_grad()
    def depends_on_neighbours(self, images: Tensor) -> bool:
        """True where an image's outputs differ in any bit by its place in the batch and the images around it."""
        size = self._shape[0]
        images = images[:size]
        alone = self(images)
        shifted = self(torch.cat([images.flip(0), images])[1 : len(images) + 1])
        moved = torch.tensor(range(len(images) - 2, -1, -1), dtype=torch.int64)
        return any(not torch.equal(alone[name][moved], shifted[name][: len(moved)]) for name in self.shapes)

    def _prepare(self) -> None:
        memory_format = torch.channels_last if self._convolutional else torch.contiguous_format
        for model in self.models:
            model.to(self._device)
            if self.sharded:  # parts are contiguous; the format of the images decides how a layer computes
                self._collect.shard(model, blocks(model))
            else:
                model.to(memory_format=memory_format)
            if self._compile:
                model.compile()
        self._buffer = torch.empty(self._shape, device=self._device, memory_format=memory_format)
        self._ready = True

    @torch.no_grad()
    def _forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        logits = []
        for model, affine in zip(self.models, self._affine, strict=True):
            seen = images if affine is None else images * affine[0].to(images.device) + affine[1].to(images.device)
            found: dict[str, Tensor] = {}
            with ExitStack() as stack:
                for tap in self._taps:
                    hook = model.get_submodule(tap.module).register_forward_hook(partial(_keep, found, tap.name))
                    stack.callback(hook.remove)
                stack.enter_context(teacher_autocast(self._precision, images.device.type))
                logits.append(model(seen))
            outputs |= {tap.name: tap.reduce(found[tap.name].float()) for tap in self._taps}
        if self._logits:
            outputs[LOGITS] = torch.stack([rows.float() for rows in logits], 1)
        return outputs


def _sharded(knobs: TeacherKnobs, ranks: int, models: Sequence[nn.Module]) -> bool:
    """Whether the teachers' weights are to lie in parts on the ranks that may share them."""
    if ranks == 1 or knobs.teacher_shard == "never" or knobs.teacher_compile:
        return False
    numbers = sum(parameter.numel() for model in models for parameter in model.parameters())
    return knobs.teacher_shard == "always" or numbers >= _LARGE


def _keep(found: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    # Not a copy: where the next operation works in place, the student's features are those after it, too.
    found[name] = output


def renormalisation(context: Context, teacher: Loaded) -> tuple[Tensor, Tensor] | None:
    """(scale, shift) [channels, 1, 1] from images as the data normalise them to those of the teacher; None where they agree."""
    if not context.mean or (context.mean, context.std) == (teacher.mean, teacher.std):
        return None
    mean, std, own_mean, own_std = (
        torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
        for values in (context.mean, context.std, teacher.mean, teacher.std)
    )
    return (std / own_std).float(), ((mean - own_mean) / own_std).float()


class Teach:
    """The batch transform: computes the teacher's outputs, or takes those that are kept."""

    def __init__(self, runner: Runner, store: Store | None) -> None:
        self._runner, self._store = runner, store
        self._checked = store is None

    def __call__(self, batch: Batch, key: Key) -> Batch:
        outputs = self._runner(batch.images) if self._store is None else self._kept(batch.images, self._store)
        batch.extras = {**batch.extras, **outputs}
        return batch

    def _kept(self, images: Tensor, store: Store) -> dict[str, Tensor]:
        if not self._checked and self._runner.most(len(images)) > 1:
            self._checked = True
            if self._runner.most(self._runner.depends_on_neighbours(images)):
                raise ConfigError(
                    "the teacher's outputs for an image depend on the images beside it, so they cannot be kept exactly",
                    "use distill.cache=none",
                )
        views = view_of(images)
        places = store.find(views)
        missing = np.flatnonzero(places[:, 0] < 0)
        if not self._runner.most(len(missing)):
            return store.take(places, images.device)
        computed = self._runner(images[torch.from_numpy(missing).to(images.device)])
        if len(missing) < len(views):
            known = np.flatnonzero(places[:, 0] >= 0)
            kept = store.take(places[known], images.device)
            order = torch.from_numpy(np.argsort(np.concatenate([missing, known]))).to(images.device)
            outputs = {name: torch.cat([computed[name], kept[name]])[order] for name in computed}
        else:
            outputs = computed
        store.add([views[row] for row in missing], computed)
        return outputs


class _Flush:
    """Writes what is new at the end of each epoch and of the run."""

    def __init__(self, store: Store, context: Context) -> None:
        self._store, self._times, self._last = store, context.times, context.total_steps

    def __call__(self, moment: Moment) -> None:
        done = moment.step + 1
        if self._times.place(done)[1] == 0 or done == self._last:
            self._store.flush()
