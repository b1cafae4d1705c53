"""Collect the notes of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.federated import get_batch_dims
from dnntrain.planning.layout import Layout
from dnntrain.planning.plan import UNBALANCED_RATIO, DataFacts, ModelFacts
from dnntrain.planning.width_multiple import choose_width_multiple
from dnntrain.protocols import NormFacts
from dnntrain.utils.epochs import LEAVE_OUT_HINT, BatchSizeSchedule, EpochSchedule
from dnntrain.utils.hardware import Hardware


def collect_notes(
    config: RunConfig,
    hardware: Hardware,
    data: DataFacts,
    model: ModelFacts,
    layout: Layout,
    sizes: BatchSizeSchedule,
    timetable: EpochSchedule,
    build_notes: Sequence[str],
) -> tuple[str, ...]:
    """Return what data, layout and methods say of this plan.

    `build_notes` are those about compilation and memory format; empty ones are left out.

    Raises ConfigError if the norm does not support the batches.
    """
    notes = [
        *data.notes,
        *(note for note in (*layout.notes, *build_notes) if note),
        *_note_uneven_batch(timetable),
        *_note_large_micro_batch(layout.micro_batch_size, config),
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
    return tuple(notes)


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


def note_unsafe_format(is_left_out: bool) -> str:
    """Return why the channels-last format is left out; empty if it is not."""
    if not is_left_out:
        return ""
    return (
        "channels first: torch's CPU kernel for 1x1 convolutions with a stride and fewer than 8 inputs "
        "writes out of bounds in the channels-last format"
    )


def _note_uneven_batch(timetable: EpochSchedule) -> list[str]:
    if not timetable.is_constant:
        return []
    last_size = timetable.count_last_examples(timetable.sizes[-1])
    if not timetable.drop_last:
        return [f"the last batch of an epoch has {last_size} examples; its loss is their mean"] if last_size else []
    if left_out := timetable.examples % timetable.sizes[-1]:
        return [
            f"train.drop_last=true leaves out {left_out} of the {timetable.examples} examples in each epoch, "
            "not always the same ones"
        ]
    return ["train.drop_last=true leaves out nothing: the batches hold all examples"]


def _note_large_micro_batch(micro_batch_size: int, config: RunConfig) -> list[str]:
    requested_size = config.train.micro_batch_size
    if not requested_size or requested_size <= micro_batch_size:
        return []
    return [f"train.micro_batch_size={requested_size} is more than a rank's share; {micro_batch_size} is used"]
