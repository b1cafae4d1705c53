"""What verbs share: from a configuration to data, plan and trained run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dnntrain.checkpoint.checkpoint import by_step
from dnntrain.checkpoint.portable_model import unfetched
from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.run_config import RunConfig
from dnntrain.input.prepared import Prepared
from dnntrain.input.split import prepare_data
from dnntrain.planning.facts import data_facts, model_facts
from dnntrain.planning.memory import with_teacher
from dnntrain.planning.plan import Plan
from dnntrain.planning.planner import make_plan
from dnntrain.protocols import Alone
from dnntrain.run.preflight import check_controls, check_first_weights, check_integers, check_stages
from dnntrain.training.components import collect, make_context
from dnntrain.utils.hardware import Hardware, detect, keep_freed_memory, resident_bytes, torch_device
from dnntrain.utils.world import World


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


def prepare_host(config: RunConfig) -> None:
    """Settings of this process that make training faster and change no number."""
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    keep_freed_memory()
