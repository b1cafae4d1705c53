"""Settings that the layout leaves without effect, or that it cannot do: the reason, and the nearest override that works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import DIMENSIONS, Degrees, Layout, uses_fsdp
from dnntrain.utils.epochs import BatchSizes
from dnntrain.utils.hardware import Hardware

_DDP = ("bucket_mb", "static_graph", "compress")
_FSDP = ("reshard_after_forward", "param_dtype", "cpu_offload")
_PIPELINE = ("schedule", "stages_per_rank")

#: Forms in which a gradient times the loss scale overflows, or stays infinite for good in what PowerSGD carries over.
_NARROW = ("fp16", "powersgd")


@dataclass(frozen=True)
class LayoutFacts:
    """What the rules ask of the model: whether it has convolutions, its number of blocks; and whether tensors must be contiguous."""

    convolutional: bool
    blocks: int
    contiguous: bool


def layout_refusals(
    config: RunConfig, hardware: Hardware, degrees: Degrees, facts: LayoutFacts, sizes: BatchSizes
) -> list[str]:
    """Every reason to refuse `config` on a layout of these degrees, each with its remedy on a second line."""
    found = [*_memory_and_format(config, degrees, facts)]
    if degrees.data_ranks > sizes.smallest:
        found.append(
            (
                f"{sizes.stated} leaves some of {degrees.data_ranks} data ranks without an example",
                sizes.at_least(degrees.data_ranks),
            )
        )
    if getattr(config.distill, "teacher_shard", "auto") == "always" and degrees.shard == 1:
        found.append(
            (
                f"distill.teacher_shard=always: this layout ({degrees}) holds weights whole",
                "use distill.teacher_shard=auto, or parallel=fsdp",
            )
        )
    layout = config.parallel
    if isinstance(layout, Layout):
        found += [*_without_effect(layout, degrees), *_pipeline(config, hardware, layout, degrees)]
        if layout.cpu_offload and hardware.device == "cpu":
            found.append(
                (
                    "parallel.cpu_offload=true: the device is a CPU, whose memory is the host's",
                    "use parallel.cpu_offload=false",
                )
            )
        if layout.compress in _NARROW and config.precision.build(hardware).scaler:
            found.append(
                (
                    f"parallel.compress={layout.compress} sends gradients that float16's loss scale has multiplied, and they overflow",
                    "use parallel.compress=bf16 or none, or precision=bf16",
                )
            )
    return [f"{reason}\n  {fix}" for reason, fix in found]


def _without_effect(layout: Layout, degrees: Degrees) -> Iterator[tuple[str, str]]:
    """Options of a kind of parallelism that this layout does not have."""
    sharded = uses_fsdp(layout, degrees)
    absent = [
        (_DDP, sharded or not degrees.plain, "plain data parallelism", "parallel=ddp"),
        (_FSDP, not sharded, "FSDP", "parallel=fsdp or parallel=hsdp"),
        (_PIPELINE, degrees.pp == 1, "a pipeline", "parallel=pp"),
    ]
    chosen = type(layout).__name__.lower()
    for names, without, what, instead in absent:
        for name in names if without else ():
            if _changed(layout, name):
                yield (
                    f"parallel.{name}={_shown(getattr(layout, name))} belongs to {what}, which this layout "
                    f"(parallel={chosen}: {degrees}) has not",
                    f"leave parallel.{name} out, or use {instead}",
                )
    if chosen == "auto" and (given := [name for name in DIMENSIONS if _changed(layout, name)]):
        yield (
            f"parallel=auto chooses the degrees itself, and parallel.{given[0]}={getattr(layout, given[0])} is one",
            f"leave parallel.{given[0]} out, or use parallel=ddp parallel.{given[0]}={getattr(layout, given[0])}",
        )


def _pipeline(config: RunConfig, hardware: Hardware, layout: Layout, degrees: Degrees) -> Iterator[tuple[str, str]]:
    if degrees.pp == 1:
        return
    interleaved, several = layout.schedule == "interleaved", layout.stages_per_rank > 1
    if interleaved and not several:
        yield (
            "parallel.schedule=interleaved alternates between several stages of a rank, and parallel.stages_per_rank=1",
            "use parallel.stages_per_rank=2, or parallel.schedule=1f1b",
        )
    if several and not interleaved:
        yield (
            f"parallel.schedule={layout.schedule} runs one stage on each rank, and "
            f"parallel.stages_per_rank={layout.stages_per_rank}",
            "use parallel.schedule=interleaved, or parallel.stages_per_rank=1",
        )
    if config.train.compile == "on":
        yield "train.compile=on: stages of a pipeline are not compiled", "use train.compile=auto or off"
    if config.precision.build(hardware).scaler:
        yield (
            f"precision={config.resolved['choices']['precision']}: the schedules of a pipeline take no loss scale",
            "use precision=bf16 or precision=fp32",
        )


def _memory_and_format(config: RunConfig, degrees: Degrees, facts: LayoutFacts) -> Iterator[tuple[str, str]]:
    model = config.resolved["choices"]["model"]
    checkpointing = config.train.activation_checkpointing
    if checkpointing != "none" and not facts.blocks:
        yield (
            f"train.activation_checkpointing={checkpointing} computes blocks anew, and model={model} has none",
            "use train.activation_checkpointing=none",
        )
    if config.train.channels_last == "on" and not facts.convolutional:
        yield (
            f"train.channels_last=on is a format of images for convolutions, and model={model} has none",
            "use train.channels_last=auto or off",
        )
    elif config.train.channels_last == "on" and facts.contiguous:
        yield (
            f"train.channels_last=on: shards and messages of this layout ({degrees}) are contiguous tensors",
            "use train.channels_last=auto or off, or parallel=ddp",
        )


def _changed(layout: Layout, name: str) -> bool:
    default = next(field.default for field in fields(layout) if field.name == name)
    value: Any = getattr(layout, name)
    return bool(value != default)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
