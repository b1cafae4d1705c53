"""Make the plan of a run from configuration, hardware and facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError, DataError
from dnntrain.planning.batch_size import (
    EarlierBatches,
    build_batch_size_schedule,
    continue_schedule,
    is_batch_size_scheduled,
    with_schedule_length,
)
from dnntrain.planning.checks.combinations import find_refusals
from dnntrain.planning.checks.federated import make_run_timetable
from dnntrain.planning.checks.memory import (
    can_keep_decoded,
    check_reader_memory,
    check_state_fits,
    count_ranks_of_machine,
)
from dnntrain.planning.checks.parallelism import choose_precision
from dnntrain.planning.checks.single_examples import find_single_example_refusals
from dnntrain.planning.layout import Layout, plan_layout
from dnntrain.planning.memory import estimate_memory
from dnntrain.planning.notes import collect_notes, note_unsafe_format
from dnntrain.planning.parallelism import count_ranks
from dnntrain.planning.plan import DataFacts, ModelFacts, Plan
from dnntrain.planning.schedule_preview import make_epoch_fields, preview_schedule
from dnntrain.planning.width_multiple import choose_width_multiple
from dnntrain.protocols import BuildContext, MetricInfo, Refusal, ScheduledParam
from dnntrain.utils.epochs import BatchSizeSchedule, EpochSchedule
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
    _check_batch_size(config, data)
    context = with_schedule_length(config, _make_context(config, data))
    sizes = _schedule_batches(config, context, data, earlier)
    layout = plan_layout(config, hardware, ranks, data, model, sizes)
    timetable = make_run_timetable(config, sizes.timetable)
    total_steps = _count_total_steps(config, timetable)
    unfreeze_step = _find_unfreeze_step(config, timetable, total_steps)
    _raise_if_any(find_single_example_refusals(config, layout.dims, model, timetable, total_steps))
    policy = choose_precision(config, hardware, layout.dims)
    channels_last, format_note = _choose_memory_format(config, hardware, model, layout)
    use_compile, compile_note = _choose_compile(config, hardware, total_steps, layout.dims)
    notes = collect_notes(config, hardware, data, model, layout, sizes, timetable, (compile_note, format_note))
    data = replace(data, cached=can_keep_decoded(config, data, ranks))
    memory = estimate_memory(config, data, model, layout.micro_batch_size, policy, process_bytes, layout.dims)
    if hardware.device == "cpu":
        memory = replace(memory, data=memory.data + data.cached_bytes // count_ranks_of_machine(config, ranks))
    check_state_fits(config, memory, hardware, ranks)
    check_reader_memory(config, data, layout.micro_batch_size, ranks)
    return Plan(
        **_make_layout_fields(config, layout, ranks),
        **_make_length_fields(config, timetable, total_steps),
        **_make_rate_fields(config),
        name=config.name,
        device=hardware.device,
        data=data,
        model=model,
        augmentations=tuple(method.describe(config.data) or name for name, method in config.augment.items()),
        precision=policy,
        channels_last=channels_last,
        compile=use_compile,
        memory=memory,
        schedule=preview_schedule(config, replace(context, **make_epoch_fields(timetable, total_steps)), timetable),
        notes=notes,
        metrics=list_metric_infos(config),
        unfreeze_step=unfreeze_step,
        width_multiple=choose_width_multiple(hardware, bool(config.quant.formats)),
    )


def _make_layout_fields(config: RunConfig, layout: Layout, ranks: int) -> dict[str, Any]:
    """Return the fields of the plan that say how ranks share the model and a batch."""
    return {
        "layout": config.resolved["parallel"]["name"],
        "has_collective_forward": layout.needs_contiguous,
        "ranks": ranks,
        "degrees": layout.dims,
        "stage_bounds": layout.stage_bounds,
        "micro_batch_size": layout.micro_batch_size,
        "accumulation": layout.accumulation,
    }


def _make_length_fields(config: RunConfig, timetable: EpochSchedule, total_steps: int) -> dict[str, Any]:
    """Return the fields of the plan about its length. Raises ConfigError if it is shorter than train.profile."""
    return {
        "duration": str(config.train.duration),
        "timetable": timetable,
        "steps_per_epoch": timetable.steps_in_epoch(0),
        "total_steps": total_steps,
        "profile_steps": _count_profile_steps(config, timetable, total_steps),
    }


def _make_rate_fields(config: RunConfig) -> dict[str, Any]:
    """Return the batch size and the learning rate that follows from it."""
    batch_size = config.train.batch_size
    return {
        "batch_size": batch_size,
        "base_learning_rate": config.optim.adapt_lr(batch_size).lr,
        "base_learning_rate_equation": config.optim.format_lr_equation(batch_size),
    }


def _count_total_steps(config: RunConfig, timetable: EpochSchedule) -> int:
    """Return the steps of the run; 0 if its length is a time."""
    duration = config.train.duration
    return 0 if duration.unit == "s" else max(1, timetable.count_steps(duration, 0))


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


def _choose_memory_format(config: RunConfig, hardware: Hardware, model: ModelFacts, layout: Layout) -> tuple[bool, str]:
    """Return whether tensors are channels-last, and a note if they are not because a kernel overflows."""
    is_asked = config.train.channels_last != "off"
    is_unsafe = hardware.device == "cpu" and model.overflows_in_channels_last
    return (
        model.convolutional and is_asked and not layout.needs_contiguous and not is_unsafe,
        note_unsafe_format(is_unsafe and is_asked),
    )


def _check_batch_size(config: RunConfig, data: DataFacts) -> None:
    if config.train.batch_size > data.train and not is_batch_size_scheduled(config):
        raise DataError(
            f"train.batch_size={config.train.batch_size} is more than the {data.train} training examples of {data.name}",
            f"use train.batch_size={data.train} or less",
        )


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
