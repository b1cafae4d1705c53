"""Find settings without effect on the layout, and unsupported settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, uses_fsdp
from dnntrain.planning.seq_len import LENGTH_MULTIPLE
from dnntrain.protocols import PrecisionPolicy, Refusal, ScheduledParam
from dnntrain.utils.epochs import BatchSizeSchedule
from dnntrain.utils.hardware import Hardware

#: Options of gradients that DDP sums.
DDP_OPTIONS = ("bucket_size_mb", "static_graph", "grad_compression")
_FSDP_OPTIONS = ("reshard_after_forward", "param_dtype", "cpu_offload")
_TENSOR_OPTIONS = ("sequence",)
_PIPELINE_OPTIONS = ("schedule", "stages_per_rank")

#: Formats in which a gradient times the loss scale overflows, or stays infinite in the error that PowerSGD keeps.
_OVERFLOW_FORMS = ("fp16", "powersgd")


@dataclass(frozen=True)
class LayoutFacts:
    """Facts about model and layout.

    convolutional  whether the model has convolutions
    blocks         number of blocks that activation checkpointing can recompute
    contiguous     whether the layout needs contiguous tensors
    """

    convolutional: bool
    blocks: int
    contiguous: bool


def find_layout_refusals(
    config: RunConfig, hardware: Hardware, dims: ParallelDims, facts: LayoutFacts, sizes: BatchSizeSchedule
) -> Iterator[Refusal]:
    """Find every reason why `config` cannot run on a layout of these degrees."""
    yield from find_format_refusals(config, bool(facts.blocks), facts.convolutional)
    yield from find_memory_format_refusals(config, facts.convolutional, facts.contiguous, dims)
    yield from find_degree_refusals(config, hardware, dims, sizes)


def find_degree_refusals(
    config: LightConfig, hardware: Hardware | None, dims: ParallelDims, sizes: BatchSizeSchedule
) -> Iterator[Refusal]:
    """Find the reasons that do not depend on the model. Hardware of None is not known yet."""
    if dims.data_ranks > sizes.smallest:
        yield Refusal(
            f"{sizes.description} leaves some of {dims.data_ranks} data ranks without an example",
            sizes.suggest_at_least(dims.data_ranks),
        )
    layout = config.parallel
    if not isinstance(layout, ParallelConfig):
        return
    yield from _find_unused_options(layout, config.resolved["parallel"]["name"], dims)
    yield from _find_pipeline_refusals(config, layout, dims)
    if hardware is None:
        return
    if not supports_loss_scale(dims) and choose_precision(config, hardware, dims).uses_loss_scale:
        kind = "a pipeline" if dims.pp > 1 else "tensor parallelism"
        yield Refusal(
            f"precision={config.resolved['choices']['precision']}: {kind} does not support a loss scale",
            "use precision=bf16 or precision=fp32",
        )
    if layout.cpu_offload and hardware.device == "cpu":
        yield Refusal(
            "parallel.cpu_offload=true has no effect, because the device is a CPU",
            "use parallel.cpu_offload=false",
        )
    if layout.grad_compression in _OVERFLOW_FORMS and config.precision.build(hardware).uses_loss_scale:
        yield Refusal(
            f"parallel.grad_compression={layout.grad_compression} does not support the loss scale of float16: "
            "scaled gradients would overflow",
            "use parallel.grad_compression=bf16 or none, or precision=bf16",
        )


def _find_unused_options(layout: ParallelConfig, name: str, dims: ParallelDims) -> Iterator[Refusal]:
    """Find options of a kind of parallelism that this layout does not use."""
    is_fsdp = uses_fsdp(layout, dims)
    option_groups = [
        (DDP_OPTIONS, is_fsdp or not dims.has_whole_model, "plain data parallelism", "parallel=ddp"),
        (_FSDP_OPTIONS, not is_fsdp, "FSDP", "parallel=fsdp or parallel=hsdp"),
        (_TENSOR_OPTIONS, dims.tp == 1, "tensor parallelism", "parallel=tp"),
        (_PIPELINE_OPTIONS, dims.pp == 1, "a pipeline", "parallel=pp"),
    ]
    changed_options = layout.get_changed_options()
    for options, is_absent, parallelism, alternative in option_groups:
        for option in options if is_absent else ():
            if option in changed_options:
                yield Refusal(
                    f"parallel.{option}={_format_value(changed_options[option])} applies to {parallelism} only, "
                    f"which this layout (parallel={name}: {dims}) does not use",
                    f"leave parallel.{option} out, or use {alternative}",
                )


def supports_loss_scale(dims: ParallelDims) -> bool:
    """Return whether a gradient scaler works: torch's takes no mixture of sharded and whole gradients, and no stages."""
    return dims.tp == 1 and dims.pp == 1


def choose_precision(config: LightConfig, hardware: Hardware, dims: ParallelDims) -> PrecisionPolicy:
    """Return the number formats of training on a layout of these degrees."""
    policy = config.precision.build(hardware)
    return (
        config.precision.avoid_loss_scale(policy)
        if policy.uses_loss_scale and not supports_loss_scale(dims)
        else policy
    )


def _find_pipeline_refusals(config: LightConfig, layout: ParallelConfig, dims: ParallelDims) -> Iterator[Refusal]:
    if dims.pp == 1:
        return
    is_interleaved, has_several_stages = layout.schedule == "interleaved", layout.stages_per_rank > 1
    if is_interleaved and not has_several_stages:
        yield Refusal(
            "parallel.stages_per_rank=1 must be 2 or more with parallel.schedule=interleaved",
            "use parallel.stages_per_rank=2, or parallel.schedule=1f1b",
        )
    if has_several_stages and not is_interleaved:
        yield Refusal(
            f"parallel.schedule={layout.schedule} does not support parallel.stages_per_rank={layout.stages_per_rank}: "
            "it runs one stage on each rank",
            "use parallel.schedule=interleaved, or parallel.stages_per_rank=1",
        )
    if config.train.compile == "on":
        yield Refusal("train.compile=on: a pipeline does not support compilation", "use train.compile=auto or off")


def find_sequence_refusals(
    config: LightConfig, dims: ParallelDims, has_positions: bool, length: int
) -> Iterator[Refusal]:
    """Find a model without texts, and lengths that do not divide, if ranks share the positions.

    has_positions  whether the model can be divided between layers by the positions of a text
    length         positions of an example
    """
    if not dims.sequence:
        return
    if not has_positions:
        yield Refusal(
            f"parallel.sequence=true divides the positions of texts, which model={config.resolved['choices']['model']} "
            "does not support",
            "leave parallel.sequence out, or use model=gpt",
        )
        return
    if length % dims.tp:
        suggestion = max(1, length // dims.tp) * dims.tp
        yield Refusal(
            f"parallel.sequence=true: parallel.tp={dims.tp} does not divide the {length} positions of an example",
            f"use data.context={suggestion}, or leave parallel.sequence out",
        )
    elif ScheduledParam.SEQ_LEN in config.sched.scheduled_params and LENGTH_MULTIPLE % dims.tp:
        yield Refusal(
            f"parallel.sequence=true: parallel.tp={dims.tp} does not divide the lengths of sched.applies_to=seq_len, "
            f"which are multiples of {LENGTH_MULTIPLE}",
            "leave seq_len out of sched.applies_to, or parallel.sequence",
        )


def find_format_refusals(
    config: LightConfig, has_blocks: bool | None, has_convolutions: bool | None
) -> Iterator[Refusal]:
    """Find options for blocks or convolutions that the model does not have; None means unknown."""
    model = config.resolved["choices"]["model"]
    checkpointing = config.train.activation_checkpointing
    if checkpointing != "none" and has_blocks is False:
        yield Refusal(
            f"train.activation_checkpointing={checkpointing} recomputes blocks, which model={model} does not have",
            "use train.activation_checkpointing=none",
        )
    if config.train.channels_last == "on" and has_convolutions is False:
        yield Refusal(
            f"train.channels_last=on needs convolutions, which model={model} does not have",
            "use train.channels_last=auto or off",
        )


def find_memory_format_refusals(
    config: LightConfig, has_convolutions: bool | None, needs_contiguous: bool, dims: ParallelDims
) -> Iterator[Refusal]:
    """Find a memory format that the layout does not support."""
    if config.train.channels_last == "on" and has_convolutions and needs_contiguous:
        yield Refusal(
            f"train.channels_last=on: this layout ({dims}) supports contiguous tensors only",
            "use train.channels_last=auto or off, or parallel=ddp",
        )


def _format_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
