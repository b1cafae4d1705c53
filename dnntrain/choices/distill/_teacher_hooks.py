"""Build the hooks of a teacher, and check its options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from dnntrain.choices.distill._load_teacher import load_teacher
from dnntrain.choices.distill._options import TeacherOptions
from dnntrain.choices.distill._teacher_cache import open_cache
from dnntrain.choices.distill._teacher_runner import (
    CacheFlusher,
    TeacherRunner,
    TeacherTap,
    TeacherTransform,
    check_precision,
    should_shard,
)
from dnntrain.errors import ConfigError
from dnntrain.nn.cost import estimate_forward_bytes
from dnntrain.nn.partition import find_blocks
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import (
    AfterStepHook,
    BatchStage,
    BatchTransform,
    BuildContext,
    FeatureTap,
    Hooks,
    LossTerm,
    MemoryUse,
)


@dataclass(frozen=True)
class TeacherHooks:
    """The hooks of a method with a teacher.

    `shapes` are the shapes of the teacher's outputs for one example.
    """

    batch_transforms: tuple[BatchTransform, ...]
    after_step: tuple[AfterStepHook, ...]
    shapes: Mapping[str, tuple[int, ...]]
    memory_use: Callable[[int], MemoryUse]

    def to_hooks(self, label_loss_weight: float, *loss: LossTerm, captures: Sequence[FeatureTap] = ()) -> Hooks:
        """Return the teacher's transforms, and the loss terms that compare the student with it."""
        return Hooks(
            batch_transforms=self.batch_transforms,
            after_step_hooks=self.after_step,
            feature_taps=tuple(captures),
            loss_terms=loss,
            main_loss_weight=label_loss_weight,
            memory_use=(self.memory_use,),
        )


def build_teacher_hooks(
    options: TeacherOptions,
    context: BuildContext,
    *,
    logits: bool = False,
    taps: Callable[[nn.Module], Sequence[TeacherTap]] | None = None,
    relations_only: bool = False,
) -> TeacherHooks:
    """Load and check the teachers, and build the transform that adds their outputs.

    The outputs are the `logits`, or the tapped features of a single teacher. With `relations_only`,
    the logits are compared among examples, so the teacher may have other classes. Raises
    ConfigError for every unsupported setting: nothing is computed or written before the first
    batch.
    """
    _check_options(options, context, single_teacher=taps is not None or relations_only)
    reads_classes = logits and not relations_only
    teachers = [load_teacher(source, context, reads_classes) for source in options.sources]
    runner = TeacherRunner(teachers, context, options, taps(teachers[0].model) if taps else (), logits)
    store = open_cache(options, context, runner.shapes, [*(teacher.digest for teacher in teachers), runner.described])
    teacher_transform = TeacherTransform(runner, store)
    flush = () if store is None or options.cache != "disk" else (CacheFlusher(store, context),)
    transform = BatchTransform(BatchStage.TEACHER, teacher_transform, is_joint=runner.sharded)
    return TeacherHooks((transform,), flush, runner.shapes, partial(estimate_teacher_memory, options, context, runner))


def estimate_teacher_memory(
    options: TeacherOptions, context: BuildContext, runner: TeacherRunner, ranks: int
) -> MemoryUse:
    """Estimate the bytes on each of `ranks` ranks that may shard the weights.

    weights      4 P for P weights; if sharded, 4 P / ranks and the largest group that is gathered at once
    activations  teacher_batch_size (inputs, and `forward_bytes` of the largest teacher, in teacher_precision)
                 + outputs of a micro-batch
    """
    sizes = [_count_model_bytes(model) for model in runner.models]
    weights = sum(sizes)
    if should_shard(options, ranks, runner.models):
        groups = [[_count_model_bytes(block) for block in find_blocks(model)] for model in runner.models]
        rest = [size - sum(group) for size, group in zip(sizes, groups, strict=True)]
        weights = math.ceil(weights / ranks) + max([*rest, *(size for group in groups for size in group)])
    shape = ModelShape.from_spec(context.spec)
    bytes_per_number = 4 if options.teacher_precision == "fp32" else 2
    bytes_per_image = 4 * math.prod(context.spec.inputs.shape) + max(
        estimate_forward_bytes(model, shape, bytes_per_number) for model in runner.models
    )
    outputs = 4 * sum(math.prod(output) for output in runner.shapes.values())
    return MemoryUse(weights, int(options.teacher_batch_size * bytes_per_image + context.micro_batch_size * outputs))


def _count_model_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _check_options(options: TeacherOptions, context: BuildContext, single_teacher: bool) -> None:
    if not options.sources:
        raise ConfigError("distill.teacher=[] must name a teacher", "name a run directory, or use distill=mean_teacher")
    if single_teacher and len(options.sources) > 1:
        raise ConfigError(
            f"distill.teacher names {len(options.sources)} teachers, whose features cannot be averaged",
            f"use distill.teacher={options.sources[0]}, or distill=kd, which averages outputs",
        )
    check_precision(options.teacher_precision, context.device)
    if options.teacher_shard == "always" and options.teacher_compile:
        raise ConfigError(
            "distill.teacher_compile=true does not support a sharded teacher",
            "use distill.teacher_compile=false, or distill.teacher_shard=never",
        )
    if options.cache_dir is not None and options.cache != "disk":
        raise ConfigError(
            f"distill.cache_dir={options.cache_dir} has no effect with distill.cache={options.cache}",
            "use distill.cache=disk, or leave cache_dir out",
        )
