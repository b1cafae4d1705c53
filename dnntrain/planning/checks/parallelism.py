"""Settings that the layout leaves without effect, or that it cannot do: the reason, and the nearest override that works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import MESH_DIMS, ParallelConfig, ParallelDims, uses_fsdp
from dnntrain.utils.epochs import BatchSizeSchedule
from dnntrain.utils.hardware import Hardware

_DDP_OPTIONS = ("bucket_mb", "static_graph", "compress")
_FSDP_OPTIONS = ("reshard_after_forward", "param_dtype", "cpu_offload")
_PIPELINE_OPTIONS = ("schedule", "stages_per_rank")

#: Forms in which a gradient times the loss scale overflows, or stays infinite for good in what PowerSGD carries over.
_OVERFLOW_FORMS = ("fp16", "powersgd")


@dataclass(frozen=True)
class LayoutFacts:
    """What the rules ask of the model: whether it has convolutions, its number of blocks; and whether tensors must be contiguous."""

    convolutional: bool
    blocks: int
    contiguous: bool


def find_layout_refusals(
    config: RunConfig, hardware: Hardware, dims: ParallelDims, facts: LayoutFacts, sizes: BatchSizeSchedule
) -> list[str]:
    """Every reason to refuse `config` on a layout of these degrees, each with its remedy on a second line."""
    refusals = [*_find_format_refusals(config, dims, facts)]
    if dims.data_ranks > sizes.smallest:
        refusals.append(
            (
                f"{sizes.description} leaves some of {dims.data_ranks} data ranks without an example",
                sizes.suggest_at_least(dims.data_ranks),
            )
        )
    if getattr(config.distill, "teacher_shard", "auto") == "always" and dims.shard == 1:
        refusals.append(
            (
                f"distill.teacher_shard=always: this layout ({dims}) holds weights whole",
                "use distill.teacher_shard=auto, or parallel=fsdp",
            )
        )
    layout = config.parallel
    if isinstance(layout, ParallelConfig):
        refusals += [*_find_unused_options(layout, dims), *_find_pipeline_refusals(config, hardware, layout, dims)]
        if layout.cpu_offload and hardware.device == "cpu":
            refusals.append(
                (
                    "parallel.cpu_offload=true: the device is a CPU, whose memory is the host's",
                    "use parallel.cpu_offload=false",
                )
            )
        if layout.compress in _OVERFLOW_FORMS and config.precision.build(hardware).uses_loss_scale:
            refusals.append(
                (
                    f"parallel.compress={layout.compress} sends gradients that float16's loss scale has multiplied, and they overflow",
                    "use parallel.compress=bf16 or none, or precision=bf16",
                )
            )
    return [f"{reason}\n  {fix}" for reason, fix in refusals]


def _find_unused_options(layout: ParallelConfig, dims: ParallelDims) -> Iterator[tuple[str, str]]:
    """Options of a kind of parallelism that this layout does not have."""
    is_fsdp = uses_fsdp(layout, dims)
    option_groups = [
        (_DDP_OPTIONS, is_fsdp or not dims.has_whole_model, "plain data parallelism", "parallel=ddp"),
        (_FSDP_OPTIONS, not is_fsdp, "FSDP", "parallel=fsdp or parallel=hsdp"),
        (_PIPELINE_OPTIONS, dims.pp == 1, "a pipeline", "parallel=pp"),
    ]
    layout_name = type(layout).__name__.lower()
    for names, is_absent, parallelism, alternative in option_groups:
        for name in names if is_absent else ():
            if _is_changed(layout, name):
                yield (
                    f"parallel.{name}={_format_value(getattr(layout, name))} belongs to {parallelism}, which this layout "
                    f"(parallel={layout_name}: {dims}) has not",
                    f"leave parallel.{name} out, or use {alternative}",
                )
    if layout_name == "auto" and (explicit_degrees := [name for name in MESH_DIMS if _is_changed(layout, name)]):
        yield (
            f"parallel=auto chooses the degrees itself, and parallel.{explicit_degrees[0]}={getattr(layout, explicit_degrees[0])} is one",
            f"leave parallel.{explicit_degrees[0]} out, or use parallel=ddp parallel.{explicit_degrees[0]}={getattr(layout, explicit_degrees[0])}",
        )


def _find_pipeline_refusals(
    config: RunConfig, hardware: Hardware, layout: ParallelConfig, dims: ParallelDims
) -> Iterator[tuple[str, str]]:
    if dims.pp == 1:
        return
    is_interleaved, has_several_stages = layout.schedule == "interleaved", layout.stages_per_rank > 1
    if is_interleaved and not has_several_stages:
        yield (
            "parallel.schedule=interleaved alternates between several stages of a rank, and parallel.stages_per_rank=1",
            "use parallel.stages_per_rank=2, or parallel.schedule=1f1b",
        )
    if has_several_stages and not is_interleaved:
        yield (
            f"parallel.schedule={layout.schedule} runs one stage on each rank, and "
            f"parallel.stages_per_rank={layout.stages_per_rank}",
            "use parallel.schedule=interleaved, or parallel.stages_per_rank=1",
        )
    if config.train.compile == "on":
        yield "train.compile=on: stages of a pipeline are not compiled", "use train.compile=auto or off"
    if config.precision.build(hardware).uses_loss_scale:
        yield (
            f"precision={config.resolved['choices']['precision']}: the schedules of a pipeline take no loss scale",
            "use precision=bf16 or precision=fp32",
        )


def _find_format_refusals(config: RunConfig, dims: ParallelDims, facts: LayoutFacts) -> Iterator[tuple[str, str]]:
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
            f"train.channels_last=on: shards and messages of this layout ({dims}) are contiguous tensors",
            "use train.channels_last=auto or off, or parallel=ddp",
        )


def _is_changed(layout: ParallelConfig, name: str) -> bool:
    default = next(field.default for field in fields(layout) if field.name == name)
    value: Any = getattr(layout, name)
    return bool(value != default)


def _format_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
