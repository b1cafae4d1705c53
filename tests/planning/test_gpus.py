"""The plan for GPUs: their own memory, not the host's; one for each rank; formats that the layout supports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.memory import check_state_fits
from dnntrain.planning.checks.parallelism import choose_precision, find_degree_refusals
from dnntrain.planning.parallelism import count_ranks, plan_parallelism
from dnntrain.planning.plan import Memory, ModelFacts
from dnntrain.utils.epochs import BatchSizeSchedule, EpochSchedule
from dnntrain.utils.hardware import Hardware, probe_hardware
from dnntrain.utils.world import World

GIB = 2**30
SMALL_GPUS = Hardware("cuda", 8, memory_bytes=1000 * GIB, gpu_memory_bytes=(16 * GIB,) * 8)
LARGE_GPU = Hardware("cuda", memory_bytes=16 * GIB, gpu_memory_bytes=(80 * GIB,))
SIZES = BatchSizeSchedule(EpochSchedule.constant(96, 32), 32)
T4 = Hardware("cuda", 2, device_name="T4", capability=(7, 5))


def make_model(parameters: int) -> ModelFacts:
    facts: Any = SimpleNamespace(parameters=parameters, activation_bytes_per_example=0, divided=(), name="model")
    return facts


def make_memory(weights: int) -> Memory:
    memory: Any = SimpleNamespace(weights=weights, gradients=0, optimizer=0)
    return memory


def test_auto_shards_a_model_that_fits_the_host_but_not_a_gpu() -> None:
    config = decode_config(compose(["parallel=auto", "optim=adamw"]))
    dims, _, (note,) = plan_parallelism(config, SMALL_GPUS, 8, make_model(2_000_000_000), 64)
    assert (dims.replicate, dims.shard) == (2, 4)
    assert "of 12.8 GiB" in note


def test_state_must_fit_the_gpu_whatever_the_host_has() -> None:
    config = decode_config(compose([]))
    check_state_fits(config, make_memory(40 * GIB), LARGE_GPU, 1)
    with pytest.raises(ConfigError, match="the device has 80"):
        check_state_fits(config, make_memory(100 * GIB), LARGE_GPU, 1)
    with pytest.raises(ConfigError, match="the device has 16"):
        check_state_fits(config, make_memory(40 * GIB), SMALL_GPUS, 8)


def test_an_offloaded_state_must_fit_into_the_memory_of_the_machine() -> None:
    config = decode_config(compose(["parallel=fsdp", "parallel.cpu_offload=true"], quiet=True))
    check_state_fits(config, make_memory(40 * GIB), SMALL_GPUS, 8)
    with pytest.raises(ConfigError, match="and the machine has 1000"):
        check_state_fits(config, make_memory(200 * GIB), SMALL_GPUS, 8)


@pytest.mark.parametrize(
    ("device", "ranks", "expected"),
    [("auto", 1, 80), ("cuda", 2, 16), ("auto", 4, 16), ("cuda:0", 1, 80), ("cuda:1", 1, 16)],
)
def test_the_memory_of_the_smallest_gpu_of_the_ranks_counts(
    device: str, ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = [80 * GIB, 16 * GIB]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=memory[index]))
    hardware = probe_hardware(device)
    assert hardware.get_device_memory_bytes(ranks) == expected * GIB
    processor = probe_hardware("cpu")
    assert hardware.memory_bytes == processor.memory_bytes == processor.get_device_memory_bytes(ranks)


@pytest.mark.parametrize("world", [World(), World(3, 4, 3, is_launched=True)], ids=["started here", "torchrun"])
def test_more_ranks_than_gpus_are_rejected_before_they_start(world: World) -> None:
    config = decode_config(compose(["parallel=ddp", "launch.nproc=4"]))
    two = Hardware("cuda", 2)
    with pytest.raises(
        ConfigError, match=r"launch\.nproc=4: each rank needs a GPU of its own, .* has 2 GPUs"
    ) as caught:
        count_ranks(config, two, world)
    assert "launch.nproc=2" in caught.value.hint
    assert count_ranks(config, two, World(), plan_only=True) == 4
    assert count_ranks(config, Hardware("cuda", 4), world) == 4
    assert count_ranks(config, Hardware("cpu"), world) == 4


@pytest.mark.parametrize("dims", [ParallelDims(tp=2), ParallelDims(pp=2)], ids=["tp", "pp"])
def test_a_layout_without_loss_scale_rejects_float16_and_auto_avoids_it(dims: ParallelDims) -> None:
    words = ["parallel=tp" if dims.tp > 1 else "parallel=pp", "launch.nproc=2"]
    fixed, auto = (decode_config(compose([f"precision={name}", *words])) for name in ("fp16", "auto"))
    (refusal,) = find_degree_refusals(fixed, T4, dims, SIZES)
    assert "does not support a loss scale" in refusal.reason
    assert "precision=bf16" in refusal.hint
    assert list(find_degree_refusals(auto, T4, dims, SIZES)) == []
    policy = choose_precision(auto, T4, dims)
    assert (policy.name, policy.uses_loss_scale) == ("fp32", False)
    assert choose_precision(auto, T4, ParallelDims(replicate=2)).name == "fp16"
