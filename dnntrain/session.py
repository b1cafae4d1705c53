"""What verbs share: from a configuration to data, plan and trained run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.batches import Prepared
from dnntrain.checkpoint.state import by_step
from dnntrain.config.run import RunConfig
from dnntrain.controls import check_controls
from dnntrain.data.source import DataSet
from dnntrain.data.split import split_validation
from dnntrain.divisible import blocks, divided_sizes
from dnntrain.hardware import Hardware, detect
from dnntrain.keys import Index, Key
from dnntrain.layout import check_stages
from dnntrain.methods import collect, make_context
from dnntrain.model.cost import (
    activation_bytes,
    flops_per_example,
    largest_activation_bytes,
    parameter_count,
    section_flops,
    unfilled,
)
from dnntrain.model.exported import unfetched
from dnntrain.model.shape import ModelShape
from dnntrain.plan_memory import with_teacher
from dnntrain.planned import DataFacts, ModelFacts, Plan
from dnntrain.planner import make_plan
from dnntrain.protocols import Alone, Parts
from dnntrain.quant.post_training import PostTraining
from dnntrain.world import World


@dataclass(frozen=True)
class Session:
    """One process's view of a run that is about to start."""

    config: RunConfig
    hardware: Hardware
    world: World
    data: Prepared
    plan: Plan

    @property
    def device(self) -> str:
        """The torch device of this rank."""
        return torch_device(self.config.device, self.hardware, self.world)


def open_session(config: RunConfig, world: World, planned: bool = False) -> Session:
    """Loads the data and makes the plan. Raises ConfigError or DataError where the run cannot be.

    A run that is only `planned` may be one of ranks that are not there.
    """
    hardware = detect(config.device)
    prepare_host(config)
    dataset = config.data.build()
    data = prepare_data(config, dataset)
    facts = data_facts(config, data)
    plan = make_plan(config, hardware, world, facts, model_facts(config, facts), resident_bytes(), planned)
    session = Session(config, hardware, world, data, plan)
    # What a method refuses is refused here, before a folder is made.
    parts = collect(config, make_context(config, plan, data, session.device, world, Alone()))
    check_controls(config, plan, data, parts)
    check_stages(config, plan, data, parts)
    session = replace(session, plan=with_teacher(plan, parts))
    if config.init_from is not None:
        check_first_weights(config, data, parts)
    if isinstance(config.quant, PostTraining) and world.is_main:
        check_integers(config, data)
    return session


def as_it_goes_on(config: RunConfig) -> RunConfig:
    """`config`; where the run goes on from a checkpoint, without the files that only its first weights were read from: they may be gone."""
    saved = config.run_dir is not None and by_step(Path(config.run_dir).expanduser() / "checkpoints")
    begun = config.resume not in ("auto", "never") or (config.resume == "auto" and saved)
    return with_saved_weights(config) if begun else config


def with_saved_weights(config: RunConfig) -> RunConfig:
    """`config` without the files that first weights are read from: those of a checkpoint take their place."""
    return replace(config, init_from=None, model=unfetched(config.model))


def check_first_weights(config: RunConfig, data: Prepared, parts: Parts) -> None:
    """Refuses a run whose `init_from` is missing, damaged, or the weights of another network."""
    from dnntrain.model.weights import check_weights

    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = unfilled(lambda: config.model.build(shape))
    for transform in parts.model:
        model = transform.apply(model)
    check_weights(model, str(config.init_from), config.init_replace_head)


def check_integers(config: RunConfig, data: Prepared) -> None:
    """Refuses a run whose `quant` asks for integers that its model or its data cannot become."""
    from dnntrain.export.foreseen import check_images, check_quantised

    name = config.resolved["choices"]["quant"]
    check_images(config.quant, name, len(data.train), len(data.val) or len(data.test))
    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = config.norm.exported(unfilled(lambda: config.model.build(shape)))
    check_quantised(config.quant, name, model, torch.zeros(2, *data.dataset.input_shape))


def prepare_data(config: RunConfig, dataset: DataSet) -> Prepared:
    """The parts of `dataset`: training and validation out of its training split, by seed; each cut to the limits that are set."""
    train, val = split_validation(dataset.train.labels, config.data.val_fraction, config.seed)
    test = np.arange(len(dataset.test))
    key = Key(config.seed, "limit")
    return Prepared(
        dataset,
        limited(train, config.train.limit, key),
        limited(val, config.eval.limit, key),
        limited(test, config.eval.limit, key),
    )


def limited(index: Index, limit: int | None, key: Key) -> Index:
    """`limit` of the examples `index`, chosen by `key`, in ascending order; all of them without a limit."""
    return index if limit is None else np.sort(key.permutation(index)[:limit])


def prepare_host(config: RunConfig) -> None:
    """Settings of this process that make training faster and change no number."""
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Asks glibc to keep freed blocks, so that the activations of each step do not fault in fresh pages (mallopt(3)).

    Does nothing on other C libraries.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def data_facts(config: RunConfig, data: Prepared) -> DataFacts:
    """The sizes that a plan needs."""
    dataset = data.dataset
    resident = config.data.pipeline != "streaming" and dataset.train.resident() is not None
    return DataFacts(
        name=choice_name(config, "data"),
        train=len(data.train),
        val=len(data.val),
        test=len(data.test),
        input_shape=dataset.input_shape,
        num_classes=len(dataset.class_names),
        resident=resident,
    )


def model_facts(config: RunConfig, data: DataFacts) -> ModelFacts:
    """The cost of the model, from a copy whose weights are not filled."""
    shape = ModelShape(data.num_classes, *data.input_shape)
    model = config.norm.converted(unfilled(lambda: config.model.build(shape)))
    config.optim.settings(model)  # patterns of parameter names that match none are refused here
    return ModelFacts(
        name=choice_name(config, "model"),
        parameters=parameter_count(model),
        flops_per_example=flops_per_example(model, shape),
        activation_bytes_per_example=activation_bytes(model, shape, 1, 4),
        largest_activation_bytes=largest_activation_bytes(model, shape, 1, 4),
        batch_norms=sum(isinstance(module, _BatchNorm) for module in model.modules()),
        blocks=len(blocks(model)),
        convolutional=any(isinstance(module, nn.Conv2d) for module in model.modules()),
        divided=divided_sizes(model),
        section_flops=section_flops(model, shape),
    )


def choice_name(config: RunConfig, group: str) -> str:
    """The choice of `group` as it was typed: a preset's own name where there is one."""
    choices = config.resolved.get("choices", {})
    name: str = choices.get(group) or config.resolved.get(group, {}).get("name", group)
    return name


def resident_bytes() -> int:
    """Memory that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: str) -> int:
    """The largest memory that this process has held: on the GPU where that is the device, else of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def torch_device(asked: str, hardware: Hardware, world: World) -> str:
    """The torch device of a rank, where `asked` (auto, cpu, cuda:1 …) was found to be `hardware`."""
    if hardware.device != "cuda":
        return hardware.device
    own = asked.split(":")[1] if ":" in asked else "0"
    return f"cuda:{world.local_rank if world.launched else own}"


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names and bytes of all parameters and buffers: equal where two runs are bitwise equal."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes of `tensors`."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
