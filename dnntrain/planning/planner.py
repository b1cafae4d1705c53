"""Make the plan of a run from configuration, hardware and facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims, is_forward_collective
from dnntrain.errors import ConfigError, DataError
from dnntrain.planning.batch_size import (
    EarlierBatches,
    build_batch_size_schedule,
    continue_schedule,
    is_batch_size_scheduled,
    with_schedule_length,
)
from dnntrain.planning.checks.combinations import find_refusals, find_unmet_requirements
from dnntrain.planning.checks.federated import get_batch_dims, make_run_timetable
from dnntrain.planning.checks.memory import check_reader_memory, check_state_fits
from dnntrain.planning.checks.parallelism import LayoutFacts, find_layout_refusals
from dnntrain.planning.checks.single_examples import find_single_example_refusals
from dnntrain.planning.memory import estimate_memory
from dnntrain.planning.parallelism import check_pipeline, compute_micro_batches, count_ranks, plan_parallelism
from dnntrain.planning.plan import CURVE_POINTS, UNBALANCED_RATIO, DataFacts, ModelFacts, Plan
from dnntrain.planning.seq_len import preview_seq_len
from dnntrain.planning.width_multiple import choose_width_multiple
from dnntrain.protocols import BuildContext, MetricInfo, NormFacts, PrecisionPolicy, Refusal, ScheduledParam, StepInfo
from dnntrain.utils.epochs import LEAVE_OUT_HINT, BatchSizeSchedule, EpochSchedule
from dnntrain.utils.hardware import Hardware
from dnntrain.utils.world import World


def make_plan(
    config: RunConfig,
    hardware: Hardware,
    world: World,
    data: DataFacts,
    model: ModelFacts,
    process_bytes: int,
    plan_only: bool = False,
    earlier: EarlierBatches | None = None,
) -> Plan:
    """Return the plan of a run, or of the rest of one with `earlier` batches.

    `process_bytes` is the memory of the process with its libraries and the data, before anything is
    built. With `plan_only`, the plan may have more ranks than are available (`cluster.world_size`).

    Raises ConfigError, which lists every reason, if the configuration cannot run, and DataError if
    the data set is too small.
    """
    ranks = count_ranks(config, hardware, world, plan_only)
    _raise_if_any(find_refusals(config, hardware, ranks))
    batch_size = config.train.batch_size
    _check_batch_size(config, data)
    context = with_schedule_length(config, _make_context(config, data))
    sizes = _schedule_batches(config, context, data, earlier)
    layout = _plan_layout(config, hardware, ranks, data, model, sizes)
    dims, micro_batch_size = layout.dims, layout.micro_batch_size
    timetable = make_run_timetable(config, sizes.timetable)
    duration = config.train.duration
    total_steps = 0 if duration.unit == "s" else max(1, timetable.count_steps(duration, 0))
    unfreeze_step = _find_unfreeze_step(config, timetable, total_steps)
    _raise_if_any(find_single_example_refusals(config, dims, model, timetable, total_steps))
    policy: PrecisionPolicy = config.precision.build(hardware)
    channels_last, format_note = _choose_memory_format(config, hardware, model, layout)
    use_compile, compile_note = _choose_compile(config, hardware, total_steps, dims)
    optional_notes = (
        *layout.notes,
        compile_note,
        format_note,
        _note_uneven_batch(timetable),
        _note_large_micro_batch(micro_batch_size, config),
    )
    notes = [*data.notes, *(note for note in optional_notes if note)]
    notes += _collect_notes(config, hardware, data, model, layout, sizes)
    memory = estimate_memory(config, data, model, micro_batch_size, policy, process_bytes, dims)
    check_state_fits(config, memory, hardware, ranks)
    check_reader_memory(config, data, micro_batch_size, ranks)
    return Plan(
        name=config.name,
        layout=config.resolved["parallel"]["name"],
        has_collective_forward=layout.needs_contiguous,
        ranks=ranks,
        degrees=dims,
        stage_bounds=layout.stage_bounds,
        device=hardware.device,
        data=data,
        model=model,
        augmentations=tuple(method.describe(config.data) or name for name, method in config.augment.items()),
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        accumulation=layout.accumulation,
        steps_per_epoch=timetable.steps_in_epoch(0),
        timetable=timetable,
        total_steps=total_steps,
        duration=str(duration),
        base_learning_rate=config.optim.adapt_lr(batch_size).lr,
        base_learning_rate_equation=config.optim.format_lr_equation(batch_size),
        precision=policy,
        channels_last=channels_last,
        compile=use_compile,
        memory=memory,
        schedule=_preview_schedule(config, replace(context, **epoch_fields(timetable, total_steps)), timetable),
        notes=tuple(notes),
        metrics=list_metric_infos(config),
        unfreeze_step=unfreeze_step,
        profile_steps=_count_profile_steps(config, timetable, total_steps),
        width_multiple=choose_width_multiple(hardware, bool(config.quant.formats)),
    )


def _raise_if_any(refusals: Iterable[Refusal]) -> None:
    if mistakes := [str(refusal) for refusal in refusals]:
        raise ConfigError.from_mistakes(mistakes)


def _schedule_batches(
    config: RunConfig, context: BuildContext, data: DataFacts, earlier: EarlierBatches | None
) -> BatchSizeSchedule:
    """Return the batch sizes of the run, after those of the `earlier` part."""
    sizes = build_batch_size_schedule(config, context, data.train)
    if config.federated.is_federated:
        return sizes
    return replace(sizes, timetable=continue_schedule(config, sizes.timetable, earlier))


def _choose_memory_format(
    config: RunConfig, hardware: Hardware, model: ModelFacts, layout: _Layout
) -> tuple[bool, str]:
    """Return whether tensors are channels-last, and a note if they are not because a kernel overflows."""
    is_asked = config.train.channels_last != "off"
    is_unsafe = hardware.device == "cpu" and model.overflows_in_channels_last
    return (
        model.convolutional and is_asked and not layout.needs_contiguous and not is_unsafe,
        _note_unsafe_format(is_unsafe and is_asked),
    )


def _check_batch_size(config: RunConfig, data: DataFacts) -> None:
    if config.train.batch_size > data.train and not is_batch_size_scheduled(config):
        raise DataError(
            f"train.batch_size={config.train.batch_size} is more than the {data.train} training examples of {data.name}",
            f"use train.batch_size={data.train} or less",
        )


@dataclass(frozen=True)
class _Layout:
    """How the ranks share the model and a batch.

    needs_contiguous  whether tensors must be contiguous, which excludes channels-last
    cuts              (micro-batch size, accumulation) for each batch size of the run
    """

    dims: ParallelDims
    stage_bounds: tuple[int, ...]
    needs_contiguous: bool
    cuts: Mapping[int, tuple[int, int]]
    micro_batch_size: int
    accumulation: int
    notes: Sequence[str]


def _plan_layout(
    config: RunConfig, hardware: Hardware, ranks: int, data: DataFacts, model: ModelFacts, sizes: BatchSizeSchedule
) -> _Layout:
    """Return the layout. Raises ConfigError, which lists every reason, if it does not support the run."""
    dims, stage_bounds, notes = plan_parallelism(config, hardware, ranks, model, sizes.largest)
    # FSDP2 and messages between ranks of a model-parallel group support contiguous tensors only.
    needs_contiguous = is_forward_collective(config.parallel, dims)
    facts = LayoutFacts(model.convolutional, model.blocks, needs_contiguous)
    batch_dims = get_batch_dims(config, dims)
    cuts = compute_micro_batches(config, batch_dims, data.train, sizes.timetable)
    micro_batch_size, accumulation = (max(numbers) for numbers in zip(*cuts.values(), strict=True))
    if refusals := [
        *find_layout_refusals(config, hardware, batch_dims, facts, sizes),
        *find_unmet_requirements(config, batch_dims, micro_batch_size, sizes),
    ]:
        raise ConfigError.from_mistakes([str(refusal) for refusal in refusals])
    check_pipeline(config, dims, model, sizes.timetable, micro_batch_size, accumulation)
    return _Layout(dims, stage_bounds, needs_contiguous, cuts, micro_batch_size, accumulation, notes)


def _collect_notes(
    config: RunConfig,
    hardware: Hardware,
    data: DataFacts,
    model: ModelFacts,
    layout: _Layout,
    sizes: BatchSizeSchedule,
) -> list[str]:
    """Return what the methods and the data say of this plan."""
    notes = [
        *_note_unbalanced_classes(config, data),
        *config.sched.notes(),
        *_make_batch_notes(config, sizes.timetable, layout.dims),
        *config.adapt.notes(config.init_from is not None or config.model.has_weights),
        *config.distill.notes(data.spec),
        *config.quant.notes(data.train),
        *config.prune.notes(hardware, choose_width_multiple(hardware, bool(config.quant.formats))),
        *config.federated.notes(data.train, layout.dims.ranks),
        *config.optim.notes(hardware),
    ]
    data_ranks = get_batch_dims(config, layout.dims).data_ranks
    for size, cut in layout.cuts.items():
        # Each size is checked; the notes of the largest are shown.
        norm_notes = _get_norm_notes(config, NormFacts(data_ranks, size, *cut, model.batch_norms))
        notes += [note for note in norm_notes if size == sizes.largest]
    return notes


def _find_unfreeze_step(config: RunConfig, timetable: EpochSchedule, total_steps: int) -> int | None:
    """Return train.unfreeze_at in steps. Raises ConfigError if it is not within the run."""
    unfreeze_at = config.train.unfreeze_at
    if unfreeze_at is None:
        return None
    step = timetable.count_steps(unfreeze_at, total_steps)
    if config.is_debugging and total_steps:
        step = max(1, min(step, total_steps - 1))
    if step == 0 or (total_steps and step >= total_steps):
        raise ConfigError(
            f"train.unfreeze_at={unfreeze_at} is step {step}, which must be within the {total_steps or 'later'} steps "
            "of the run",
            "use train.unfreeze_at=10%, or leave it out to keep the frozen part in the whole run",
        )
    return step


def _count_profile_steps(config: RunConfig, timetable: EpochSchedule, total_steps: int) -> int:
    """Return the steps that train.profile traces. Raises ConfigError if the run is shorter."""
    if config.train.profile is None:
        return 0
    steps = max(1, timetable.count_steps(config.train.profile, total_steps))
    if config.is_debugging and total_steps:
        return min(steps, total_steps)
    if total_steps and steps > total_steps:
        raise ConfigError(
            f"train.profile={config.train.profile} is {steps} steps, which must be at most the {total_steps} steps "
            "of the run",
            f"use train.profile={total_steps}step or less",
        )
    return steps


def _make_context(config: RunConfig, data: DataFacts) -> BuildContext:
    """Return the context of the schedule before the length of the run is known."""
    batch_size = config.train.batch_size
    return BuildContext(
        seed=config.seed,
        spec=data.spec,
        metrics=list_metric_infos(config),
        steps_per_epoch=0,
        total_steps=0,
        batch_size=batch_size,
        learning_rate=config.optim.adapt_lr(batch_size).lr,
        fits_durations=config.is_debugging,
    )


def list_metric_infos(config: RunConfig) -> tuple[MetricInfo, ...]:
    """Return the description of each metric; `eval.metric` comes first."""
    infos: tuple[MetricInfo, ...] = config.task.list_infos()
    return tuple(sorted(infos, key=lambda info: info.name != config.eval.metric))


def epoch_fields(timetable: EpochSchedule, total_steps: int) -> dict[str, Any]:
    """Return the fields of a context that follow from the timetable of the run."""
    steps_per_epoch = timetable.steps_in_epoch(0) if timetable.is_constant else 0
    return {"explicit_schedule": timetable, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def _preview_schedule(
    config: RunConfig, context: BuildContext, timetable: EpochSchedule
) -> dict[str, tuple[float, ...]]:
    """Return each scheduled value over the run.

    Raises ConfigError if the schedule does not fit the run.
    """
    total_steps = context.total_steps
    scheduled_values = config.sched.build(context).scheduled_values
    factors = [
        scheduled_value.value
        for scheduled_value in scheduled_values
        if scheduled_value.target is ScheduledParam.LEARNING_RATE
    ]
    other_values = {
        f"{scheduled_value.target.value}{' ×' if scheduled_value.is_relative else ''}": scheduled_value.value
        for scheduled_value in scheduled_values
        if isinstance(scheduled_value.target, ScheduledParam) and not scheduled_value.target.is_in_every_run
    }
    points = min(CURVE_POINTS, total_steps or CURVE_POINTS)
    shares = [index / max(points - 1, 1) for index in range(points)]
    step_infos = [
        StepInfo(step, timetable.epoch_at(step), step / total_steps) if total_steps else StepInfo(0, 0.0, share)
        for share in shares
        for step in [round(share * (total_steps - 1))]
    ]
    rates = tuple(
        context.learning_rate * math.prod([value(step_info) for value in factors]) for step_info in step_infos
    )
    sizes = tuple(float(timetable.batch_size_at(timetable.locate_step(step_info.step)[0])) for step_info in step_infos)
    return {
        "lr": rates,
        **{name: tuple(value(step_info) for step_info in step_infos) for name, value in other_values.items()},
        **({"batch size": sizes} if is_batch_size_scheduled(config) else {}),
        **preview_seq_len(scheduled_values, step_infos, context.spec),
    }


def _choose_compile(config: RunConfig, hardware: Hardware, total_steps: int, dims: ParallelDims) -> tuple[bool, str]:
    if dims.pp > 1:
        return False, ""
    if config.train.compile != "auto":
        return config.train.compile == "on", ""
    if (
        hardware.device == "cuda"
        and total_steps >= 2000
        and ScheduledParam.DROP_RATE not in config.sched.scheduled_params
    ):
        return True, "compiled: 2000 steps or more on a GPU repay the compilation"
    return False, ""


def _get_norm_notes(config: RunConfig, facts: NormFacts) -> Sequence[str]:
    """Return the notes of the norm.

    Raises ConfigError if the norm does not support these batches. If the schedule sets their size, the
    message says so.
    """
    try:
        return config.norm.notes(facts)
    except ConfigError as error:
        if facts.batch_size == config.train.batch_size:
            raise
        batch_text = (
            f"the batch of {facts.batch_size} is train.batch_size={config.train.batch_size} "
            "scaled by sched.applies_to=batch_size"
        )
        raise ConfigError(f"{error.message}; {batch_text}", f"{error.hint}, or {LEAVE_OUT_HINT}") from None


def _make_batch_notes(config: RunConfig, timetable: EpochSchedule, dims: ParallelDims) -> list[str]:
    """Return the notes about a scheduled batch size."""
    if timetable.is_constant:
        return []
    notes = [
        "the batch size changes between epochs; micro-batches, memory and the batch above are for the largest batch"
    ]
    if config.optim.lr_scaling != "none":
        notes.append(f"optim.lr_scaling uses train.batch_size={config.train.batch_size}, not the scheduled size")
    if dims.pp > 1:
        notes.append("a pipeline pads smaller batches: each step costs as much as a step of the largest batch")
    return notes


def _note_unbalanced_classes(config: RunConfig, data: DataFacts) -> list[str]:
    counts = data.class_counts
    if not counts or max(counts) < UNBALANCED_RATIO * min(counts) or config.data.sampler == "balanced":
        return []
    remedy = config.task.balancing_hint
    return [f"the classes are unbalanced: {remedy}"] if remedy else []


def _note_unsafe_format(is_left_out: bool) -> str:
    """Return why the channels-last format is left out; empty if it is not."""
    if not is_left_out:
        return ""
    return (
        "channels first: torch's CPU kernel for 1x1 convolutions with a stride and fewer than 8 inputs "
        "writes out of bounds in the channels-last format"
    )


def _note_uneven_batch(timetable: EpochSchedule) -> str:
    if not timetable.is_constant:
        return ""
    last_size = timetable.count_last_examples(timetable.sizes[-1])
    if timetable.drop_last:
        left_out = timetable.examples % timetable.sizes[-1]
        return (
            f"train.drop_last=true leaves out {left_out} of the {timetable.examples} examples in each epoch, not always "
            "the same ones"
            if left_out
            else "train.drop_last=true leaves out nothing: the batches hold all examples"
        )
    return f"the last batch of an epoch has {last_size} examples; its loss is their mean" if last_size else ""


def _note_large_micro_batch(micro: int, config: RunConfig) -> str:
    requested_size = config.train.micro_batch_size
    return (
        f"train.micro_batch_size={requested_size} is more than a rank's share; {micro} is used"
        if requested_size and requested_size > micro
        else ""
    )
