"""(configuration, hardware, facts of data and model) → Plan: every decision of a run, made before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dnntrain.choices.norm._convert import NormFacts
from dnntrain.choices.precision._policy import Policy
from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import Degrees, computes_together, layout_name
from dnntrain.errors import ConfigError, DataError
from dnntrain.planning.batch_size import batch_sizes, counting, schedules_batch_size
from dnntrain.planning.checks.combinations import refusals, scheduled, unmet_needs
from dnntrain.planning.checks.parallelism import LayoutFacts, layout_refusals
from dnntrain.planning.memory import memory_of
from dnntrain.planning.parallelism import check_pipeline, micro_batches, place_model, ranks_of
from dnntrain.planning.plan import CURVE_POINTS, DataFacts, ModelFacts, Plan
from dnntrain.protocols import Context, Moment, Target
from dnntrain.utils.epochs import LEFT_OUT, Timetable
from dnntrain.utils.hardware import Hardware
from dnntrain.utils.world import World


def make_plan(
    config: RunConfig,
    hardware: Hardware,
    world: World,
    data: DataFacts,
    model: ModelFacts,
    process_bytes: int,
    planned: bool = False,
) -> Plan:
    """Decides everything or refuses: ConfigError lists every reason, DataError where the data set is too small.

    `process_bytes` is what the process holds with its libraries and the data, before anything is built. What is only `planned` may have
    ranks that are not there (`launch.world`).
    """
    ranks = ranks_of(config, hardware, world, planned)
    if reasons := refusals(config, hardware, ranks):
        raise ConfigError.of(reasons)
    batch_size = config.train.batch_size
    if batch_size > data.train and not schedules_batch_size(config):
        raise DataError(
            f"train.batch_size={batch_size} is more than the {data.train} training examples of {data.name}",
            f"use train.batch_size={data.train} or less",
        )
    blank = _context(config, data)
    counted = counting(config, blank)
    sizes = batch_sizes(config, counted, data.train)
    timetable = sizes.timetable
    degrees, stage_bounds, layout_notes = place_model(config, hardware, ranks, model, sizes.largest)
    layout = layout_name(config.parallel)
    # FSDP2 and the messages of ranks that compute together take contiguous tensors only.
    contiguous = computes_together(layout, degrees)
    facts = LayoutFacts(model.convolutional, model.blocks, contiguous)
    cuts = micro_batches(config, degrees, data.train, timetable)
    micro, accumulation = (max(numbers) for numbers in zip(*cuts.values(), strict=True))
    if reasons := [
        *layout_refusals(config, hardware, degrees, facts, sizes),
        *unmet_needs(config, degrees, micro, sizes),
    ]:
        raise ConfigError.of(reasons)
    check_pipeline(config, degrees, model, timetable, accumulation)
    duration = config.train.duration
    total = 0 if duration.unit == "s" else max(1, timetable.steps_of(duration, 0))
    policy: Policy = config.precision.build(hardware)
    channels_last = model.convolutional and config.train.channels_last != "off" and not contiguous
    compiled, compile_note = _compile(config, hardware, total, degrees)
    found = (
        *layout_notes,
        compile_note,
        _uneven(timetable),
        _too_large(micro, config),
    )
    notes = [note for note in found if note]
    if getattr(config.sched, "looks_at_validation", False):
        notes.append("the learning rate is that of the base schedule, scaled by what each evaluation finds")
    notes += _batch_notes(config, timetable, degrees)
    notes += config.distill.notes(data.num_classes) if hasattr(config.distill, "notes") else ()
    notes += config.quant.notes(data.train) if isinstance(config.quant, PostTraining) else ()
    for size, cut in cuts.items():
        found_notes = _norm_notes(config, NormFacts(degrees.data_ranks, size, *cut, model.batch_norms))
        notes += [note for note in found_notes if size == sizes.largest]
    return Plan(
        name=config.name,
        layout=layout,
        ranks=ranks,
        degrees=degrees,
        stage_bounds=stage_bounds,
        device=hardware.device,
        data=data,
        model=model,
        batch_size=batch_size,
        micro_batch_size=micro,
        accumulation=accumulation,
        steps_per_epoch=timetable.steps(0),
        timetable=timetable,
        total_steps=total,
        duration=str(duration),
        base_learning_rate=config.optim.scaled(batch_size).lr,
        base_learning_rate_equation=config.optim.equation(batch_size),
        precision=policy,
        channels_last=channels_last,
        compile=compiled,
        memory=memory_of(config, data, model, micro, policy, process_bytes, degrees),
        schedule=_schedule(config, replace(counted, **known(timetable, total)), timetable),
        notes=tuple(notes),
    )


def _context(config: RunConfig, data: DataFacts) -> Context:
    """What a schedule is built from, before the length of the run is known."""
    batch_size = config.train.batch_size
    return Context(
        seed=config.seed,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        steps_per_epoch=0,
        total_steps=0,
        batch_size=batch_size,
        learning_rate=config.optim.scaled(batch_size).lr,
    )


def known(timetable: Timetable, total_steps: int) -> dict[str, Any]:
    """What a context has of a run whose timetable is known."""
    steps_per_epoch = timetable.steps(0) if timetable.is_constant else 0
    return {"timetable": timetable, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def _schedule(config: RunConfig, context: Context, timetable: Timetable) -> dict[str, tuple[float, ...]]:
    """What the schedule alone makes of each value. Raises ConfigError where it does not fit the run."""
    total_steps = context.total_steps
    controls = config.sched.build(context).controls
    factors = [control.value for control in controls if control.target is Target.LEARNING_RATE]
    others = {
        f"{control.target.value}{' ×' if control.relative else ''}": control.value
        for control in controls
        if isinstance(control.target, Target) and control.target not in (Target.LEARNING_RATE, Target.BATCH_SIZE)
    }
    points = min(CURVE_POINTS, total_steps or CURVE_POINTS)
    shares = [index / max(points - 1, 1) for index in range(points)]
    moments = [
        Moment(step, timetable.epoch_at(step), step / total_steps) if total_steps else Moment(0, 0.0, share)
        for share in shares
        for step in [round(share * (total_steps - 1))]
    ]
    rates = tuple(context.learning_rate * math.prod([value(moment) for value in factors]) for moment in moments)
    sizes = tuple(float(timetable.size(timetable.place(moment.step)[0])) for moment in moments)
    return {
        "lr": rates,
        **{name: tuple(value(moment) for moment in moments) for name, value in others.items()},
        **({"batch size": sizes} if schedules_batch_size(config) else {}),
    }


def _compile(config: RunConfig, hardware: Hardware, total_steps: int, degrees: Degrees) -> tuple[bool, str]:
    if degrees.pp > 1:
        return False, ""
    if config.train.compile != "auto":
        return config.train.compile == "on", ""
    if hardware.device == "cuda" and total_steps >= 2000 and "drop_rate" not in scheduled(config):
        return True, "compiled: 2000 steps or more on a GPU repay the compilation"
    return False, ""


def _norm_notes(config: RunConfig, facts: NormFacts) -> Sequence[str]:
    """Raises ConfigError where the norm does not do with these batches, and says which they are where the schedule makes them."""
    try:
        notes: Sequence[str] = config.norm.notes(facts)
    except ConfigError as error:
        if facts.batch_size == config.train.batch_size:
            raise
        where = f"in a batch of {facts.batch_size} (train.batch_size={config.train.batch_size} as sched.param=batch_size makes it)"
        raise ConfigError(f"{error.message}, {where}", f"{error.hint}, or {LEFT_OUT}") from None
    return notes


def _batch_notes(config: RunConfig, timetable: Timetable, degrees: Degrees) -> list[str]:
    """What follows from a scheduled batch size."""
    if timetable.is_constant:
        return []
    notes = [
        "the batch size changes between epochs; micro-batches, memory and the batch above are those of the largest"
    ]
    if config.optim.lr_scaling != "none":
        notes.append(f"optim.lr_scaling goes by train.batch_size={config.train.batch_size}, not by the scheduled size")
    if degrees.pp > 1:
        notes.append("a pipeline pads smaller batches: each step costs what one of the largest batch does")
    return notes


def _uneven(timetable: Timetable) -> str:
    rest = timetable.examples % timetable.sizes[-1] if timetable.is_constant else 0
    return f"the last batch of an epoch has {rest} examples; its mean is over those" if rest else ""


def _too_large(micro: int, config: RunConfig) -> str:
    asked = config.train.microbatch
    return f"train.microbatch={asked} is more than a rank's share; {micro} is used" if asked and asked > micro else ""
