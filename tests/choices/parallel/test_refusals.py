"""Layouts that cannot be, and settings that one leaves without effect: refused by the plan, with the reason and what works instead."""

from __future__ import annotations

import re

import pytest

from dnntrain import plan
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.parallelism import LayoutFacts, find_layout_refusals
from dnntrain.utils.epochs import BatchSizeSchedule, EpochSchedule
from dnntrain.utils.hardware import Hardware

DDP, FSDP, PP = "parallel=ddp", "parallel=fsdp", "parallel=pp"
#: Ranks share the positions of texts.
TEXT = ("task=language_model", "data=python_library", "model=gpt", "parallel=tp", "parallel.sequence=true")
SHORT_FIRST = ("sched=linear", "sched.start_factor=0.25", "sched.end_factor=1", "sched.applies_to=[lr,seq_len]")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "reason", "fix"),
    [
        # degrees and sizes
        (("parallel=ddp", "parallel.replicate=3"), "3 ranks, but the run has 2", "parallel.replicate=2"),
        ((DDP, "parallel.tp=4"), "does not divide 2 ranks", "launch.nproc=4"),
        ((DDP, "train.batch_size=1"), "leaves some of 2 data ranks without an example", "train.batch_size=2"),
        ((PP, "model=mlp", "model.hidden=[8]", "launch.nproc=4"), "sections", "parallel.pp=2 or less"),
        ((PP, "train.micro_batch_size=32"), "1 micro-batches are fewer than the 2 stages", "train.micro_batch_size=16"),
        (
            ("parallel=tp", "model=mobilenet_v3_small"),
            "does not define a tensor-parallel plan",
            "use parallel=ddp or parallel=fsdp",
        ),
        (("parallel=tp", "model=mlp", "model.hidden=[9]"), "parallel.tp=2 does not divide 9", "use parallel=ddp"),
        (("parallel=tp", "launch.nproc=3"), "does not divide 32", "use parallel.tp=2 launch.nproc=2"),
        ((FSDP, "optim=adafactor"), "optim=adafactor needs", "use parallel=ddp, or leave optim=adafactor out"),
        (
            ("parallel=single", "launch.nproc=2", "parallel.replicate=2"),
            "parallel=single has no 'replicate'",
            "conf/parallel/ddp.yaml",
        ),
        (("parallel=auto", "parallel.tp=2"), "chooses the layout itself", "leave parallel.tp out"),
        # options of another kind of parallelism
        ((FSDP, "parallel.bucket_size_mb=10"), "parallel.bucket_size_mb=10", "leave parallel.bucket_size_mb out"),
        ((PP, "parallel.static_graph=true"), "parallel.static_graph=true applies to plain data", "use parallel=ddp"),
        ((FSDP, "parallel.grad_compression=bf16"), "applies to plain data parallelism", "use parallel=ddp"),
        (
            (DDP, "parallel.replicate=1", "parallel.tp=2", "parallel.grad_compression=bf16"),
            "applies to plain data",
            "parallel=ddp",
        ),
        ((DDP, "parallel.reshard_after_forward=false"), "applies to FSDP only", "use parallel=fsdp or parallel=hsdp"),
        ((DDP, "parallel.param_dtype=bf16"), "applies to FSDP only", "parallel=fsdp"),
        ((DDP, "parallel.schedule=gpipe"), "applies to a pipeline only", "use parallel=pp"),
        ((FSDP, "parallel.stages_per_rank=2"), "applies to a pipeline only", "use parallel=pp"),
        ((FSDP, "parallel.cpu_offload=true"), "the device is a CPU", "use parallel.cpu_offload=false"),
        ((DDP, "parallel.sequence=true"), "parallel.sequence=true applies to tensor parallelism", "use parallel=tp"),
        (("parallel=tp", "parallel.sequence=true"), "divides the positions of texts", "use model=gpt"),
        ((*TEXT, "data.context=31"), "parallel.tp=2 does not divide the 31 positions", "use data.context=30"),
        (
            (*TEXT, "data.context=63", "launch.nproc=3", "model.num_heads=3", "model.embed_dim=24", *SHORT_FIRST),
            "parallel.tp=3 does not divide the lengths of sched.applies_to=seq_len",
            "leave seq_len out",
        ),
        # pipelines
        ((PP, "parallel.schedule=interleaved"), "parallel.stages_per_rank=1", "use parallel.stages_per_rank=2"),
        ((PP, "parallel.stages_per_rank=2", "train.batch_size=64"), "runs one stage", "parallel.schedule=interleaved"),
        ((PP, "train.compile=on"), "a pipeline does not support compilation", "use train.compile=auto"),
        # memory and format
        ((FSDP, "model=resnet20", "train.channels_last=on"), "supports contiguous tensors only", "or parallel=ddp"),
        ((DDP, "model=mlp", "train.channels_last=on"), "which model=mlp does not have", "use train.channels_last=auto"),
        (
            (DDP, "model=mlp", "train.activation_checkpointing=full"),
            "which model=mlp does not have",
            "checkpointing=none",
        ),
    ],
)
def test_it_is_refused_with_the_reason_and_what_works(words: tuple[str, ...], reason: str, fix: str) -> None:
    ranks = [] if any(word.startswith("launch.nproc") for word in words) else ["launch.nproc=2"]
    with pytest.raises(ConfigError) as refused:
        plan("device=cpu", *ranks, *words)
    assert reason in str(refused.value)
    assert fix in str(refused.value)


INTERLEAVED = (
    PP,
    "parallel.schedule=interleaved",
    "parallel.stages_per_rank=2",
    "model=mlp",
    "model.hidden=[16,16,16]",
)


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        (*INTERLEAVED, "parallel.pp=2", "parallel.replicate=2", "launch.nproc=4", "train.batch_size=50"),
        (*INTERLEAVED, "train.batch_size=64", "train.micro_batch_size=6"),
        (PP, "launch.nproc=2", "train.micro_batch_size=32"),
        (*INTERLEAVED, "parallel.pp=2", "parallel.replicate=2", "launch.nproc=4", "train.batch_size=6"),
    ],
)
def test_the_number_of_micro_batches_that_a_pipeline_asks_for_is_one_that_it_takes(words: tuple[str, ...]) -> None:
    words = words if any(word.startswith("launch.nproc") for word in words) else (*words, "launch.nproc=2")
    with pytest.raises(ConfigError, match="micro-batches") as refused:
        plan("device=cpu", *words)
    named = re.findall(r"train\.\w+=\d+", refused.value.hint)
    keys = {word.split("=")[0] for word in named}
    assert plan("device=cpu", *named, *(word for word in words if word.split("=")[0] not in keys)).degrees.pp == 2


@pytest.mark.slow
def test_a_stage_of_frozen_filters_alone_is_refused_by_the_plan() -> None:
    words = ("device=cpu", PP, "launch.nproc=2", "reg=[whitening]", "model.channels=[8,16]", "model.hidden=16")
    with pytest.raises(
        ConfigError, match=r"stage 0 of parallel\.pp=2 holds no weights .* that reg\.whitening"
    ) as refused:
        plan(*words)
    assert "use parallel=ddp, or reg.whitening.freeze=false" in str(refused.value)
    assert plan(*words, "reg.whitening.freeze=false").degrees.pp == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "degrees", "reason", "fix"),
    [
        (
            (DDP, "parallel.grad_compression=fp16"),
            ParallelDims(replicate=2),
            "loss scale",
            "use parallel.grad_compression=bf16 or none",
        ),
        ((DDP, "parallel.grad_compression=powersgd"), ParallelDims(replicate=2), "loss scale", "or precision=bf16"),
        ((PP,), ParallelDims(pp=2), "does not support a loss scale", "use precision=bf16 or precision=fp32"),
    ],
)
def test_what_a_loss_scale_cannot_be_combined_with_is_refused(
    words: tuple[str, ...], degrees: ParallelDims, reason: str, fix: str
) -> None:
    config = decode_config(compose(["precision=fp16", *words]))
    gpu = Hardware("cuda", 2, capability=(7, 0))
    sizes = BatchSizeSchedule(EpochSchedule.constant(96, 32), 32)
    (refusal,) = find_layout_refusals(config, gpu, degrees, LayoutFacts(True, 1, False), sizes)
    assert reason in refusal.reason
    assert fix in refusal.hint


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        (DDP, "parallel.grad_compression=powersgd", "parallel.bucket_size_mb=1", "parallel.static_graph=true"),
        (FSDP, "parallel.reshard_after_forward=false", "parallel.param_dtype=bf16"),
        (DDP, "parallel.tp=2", "parallel.param_dtype=bf16", "launch.nproc=4"),
        (PP, "parallel.schedule=gpipe"),
        (PP, "parallel.schedule=interleaved", "parallel.stages_per_rank=2", "train.batch_size=64"),
        (FSDP, "model=resnet20", "train.activation_checkpointing=full"),
        (DDP, "model=resnet20", "train.channels_last=on"),
        ("parallel=auto",),
    ],
)
def test_each_option_is_taken_where_it_has_an_effect(words: tuple[str, ...]) -> None:
    ranks = [] if any(word.startswith("launch.nproc") for word in words) else ["launch.nproc=2"]
    assert plan("device=cpu", *ranks, *words).ranks >= 2
