"""Reject models whose weights and optimizer state do not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.input.shared_memory import check_shared_memory
from dnntrain.input.worker_replies import choose_worker_count
from dnntrain.planning.plan import DataFacts, Memory
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.hardware import Hardware, probe_hardware
from dnntrain.utils.memory_size import read_memory_bytes
from dnntrain.utils.shared_pages import can_share_between_ranks, can_share_with_forks
from dnntrain.utils.units import format_bytes, format_count

#: Decoded examples of all ranks of a machine may take this share of its memory, unless `data.pipeline=cached`.
_CACHE_SHARE = 0.125

_HINT = "use a smaller model; with several devices, parallel=fsdp shards the weights"


def check_weights_fit(config: RunConfig, model: nn.Module) -> None:
    """Check that the weights fit into the host's memory, where every rank builds them whole.

    Raises ConfigError with the memory that they need.
    """
    memory_bytes = read_memory_bytes()
    needed_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    parts = "weights"
    if config.parallel.processes == "one" and probe_hardware(config.device).device == "cpu":
        needed_bytes = int(needed_bytes * (2 + config.optim.state_floats_per_parameter))
        parts = "weights, gradients and optimizer state"
    if memory_bytes and needed_bytes > memory_bytes and config.cluster.world_size is None:
        count = format_count(sum(parameter.numel() for parameter in model.parameters()))
        raise ConfigError(
            f"{_name_model(config)} does not fit: {parts} of its {count} parameters take "
            f"{format_bytes(needed_bytes)}, and this machine has {format_bytes(memory_bytes)}",
            _HINT,
        )


@contextmanager
def explain_missing_memory(config: RunConfig) -> Iterator[None]:
    """Turn a failed allocation of the body, which builds the model, into a ConfigError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known_error = explain_lack_of_resources(error)
        if known_error is None:
            raise
        raise ConfigError(f"{_name_model(config)} does not fit: {known_error.message}", _HINT) from error


def check_state_fits(config: RunConfig, memory: Memory, hardware: Hardware, ranks: int) -> None:
    """Check that weights, gradients and optimizer state fit into the memory of the device.

    On the CPU, and with parallel.cpu_offload, the ranks of a machine share its memory. Raises ConfigError
    with the memory that they need.
    """
    is_on_host = hardware.device == "cpu" or bool(config.resolved["parallel"].get("cpu_offload"))
    sharing_ranks = count_ranks_of_machine(config, ranks) if is_on_host else 1
    needed_bytes = (memory.weights + memory.gradients + memory.optimizer) * sharing_ranks
    present_bytes = hardware.memory_bytes if is_on_host else hardware.get_device_memory_bytes(ranks)
    if present_bytes and needed_bytes > present_bytes and config.cluster.world_size is None:
        raise ConfigError(
            f"{_name_model(config)} does not fit: weights, gradients and optimizer state take "
            f"{format_bytes(needed_bytes)}, and the {'machine' if is_on_host else 'device'} has "
            f"{format_bytes(present_bytes)}",
            _HINT,
        )


def check_reader_memory(config: RunConfig, data: DataFacts, micro_batch_size: int, ranks: int) -> None:
    """Check that /dev/shm holds the batches of the processes that read training and validation images.

    Raises ConfigError, which names the number of workers that fit.
    """
    if data.resident or config.cluster.world_size is not None:
        return
    sharing_ranks = count_ranks_of_machine(config, ranks)
    evaluated = min(config.eval.batch_size, max(data.val, data.test)) if data.is_read_again else 0
    batch_bytes = (micro_batch_size + evaluated) * math.prod(data.spec.inputs.shape)
    check_shared_memory(batch_bytes, choose_worker_count(config.data.num_workers, ranks), sharing_ranks)


def can_keep_decoded(config: RunConfig, data: DataFacts, ranks: int) -> bool:
    """Return whether reading processes keep what they decode.

    With `data.pipeline=auto` the ranks of a machine, which share what they keep on Linux, may keep as
    much as an eighth of its memory. Raises ConfigError if `cached` is set and impossible.
    """
    pipeline = config.data.pipeline
    if reason := _find_reason_not_to_keep(config, data):
        if pipeline == "cached":
            raise ConfigError(f"data.pipeline=cached is not possible: {reason}", "use data.pipeline=auto")
        return False
    copies = 1 if can_share_between_ranks() else count_ranks_of_machine(config, ranks)
    cached_bytes = copies * replace(data, cached=True).cached_bytes
    return pipeline == "cached" or (pipeline == "auto" and cached_bytes <= read_memory_bytes() * _CACHE_SHARE)


def count_ranks_of_machine(config: RunConfig, ranks: int) -> int:
    """Return how many of the ranks share the memory of a machine."""
    return max(1, ranks // max(config.launch.nodes, 1))


def _find_reason_not_to_keep(config: RunConfig, data: DataFacts) -> str:
    if not data.is_read_again:
        return f"{data.name} is in memory already"
    if not data.can_cache:
        return f"{data.name} has no cache"
    if config.data.varies_images:
        return "training examples are read differently in every epoch"
    return "" if can_share_with_forks() else "this system does not fork processes"


def _name_model(config: RunConfig) -> str:
    return f"model={config.resolved['choices']['model']}"
