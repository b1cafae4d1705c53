"""Open the session of a run: from a configuration to its data and its plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dnntrain.checkpoint.checkpoint_folder import list_checkpoints
from dnntrain.checkpoint.model_card import read_card_widths
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.input.evaluation_check import check_evaluation_images
from dnntrain.input.prepared import PreparedData
from dnntrain.input.read_errors import explain_unreadable_data
from dnntrain.input.split import prepare_data
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.checks.combinations import check_inputs
from dnntrain.planning.cpu_threads import choose_threads
from dnntrain.planning.facts import collect_data_facts, collect_model_facts
from dnntrain.planning.memory import add_method_memory
from dnntrain.planning.parallelism import count_ranks
from dnntrain.planning.plan import Plan
from dnntrain.planning.planner import make_plan
from dnntrain.protocols import Hooks, LateCollectives
from dnntrain.pruning.widths import Widths
from dnntrain.run.earlier_batches import read_earlier_batches
from dnntrain.run.preflight import (
    check_init_weights,
    check_pipeline_stages,
    check_quantization,
    check_reshaping,
    check_scheduled_values,
    check_unfreezing,
)
from dnntrain.run.tuned_settings import TunedSettings
from dnntrain.run.unfinished import write_models_of_sources
from dnntrain.training.client_batches import check_clients
from dnntrain.training.components import build_hooks, make_build_context
from dnntrain.training.reshape import add_widths, get_widths
from dnntrain.training.setup import RunSetup
from dnntrain.utils.given_objects import has_objects
from dnntrain.utils.hardware import (
    Hardware,
    get_torch_device,
    keep_freed_memory,
    probe_hardware,
    read_resident_bytes,
    use_threads,
)
from dnntrain.utils.world import World


@dataclass(frozen=True)
class Session:
    """One process's view of a run before its start.

    Its methods are built, and hold the collectives that the ranks join later.
    """

    config: RunConfig
    hardware: Hardware
    world: World
    data: PreparedData
    plan: Plan
    hooks: Hooks
    collectives: LateCollectives

    @property
    def device(self) -> str:
        """The torch device of this rank."""
        return get_torch_device(self.config.device, self.hardware, self.world)

    @property
    def setup(self) -> RunSetup:
        """The values that a trainer is built from."""
        return RunSetup(self.config, self.plan, self.data, self.hooks, self.collectives, self.world, self.device)

    def with_new_hooks(self) -> Session:
        """Return the session with its methods built again, for another trainer in this process."""
        collectives = LateCollectives(self.plan.degrees.shard)
        context = make_build_context(self.config, self.plan, self.data, self.device, self.world, collectives)
        hooks = add_widths(build_hooks(self.config, context), get_widths(self.hooks))
        return replace(self, hooks=hooks, collectives=collectives)

    def without_hooks(self) -> Session:
        """Return the session without its methods and their models, such as a teacher."""
        return replace(self, hooks=Hooks())


def open_session(
    config: RunConfig, world: World, plan_only: bool = False, tuned: TunedSettings | None = None
) -> Session:
    """Load the data and make the plan. Raises ConfigError or DataError if the run is impossible.

    With `plan_only` the ranks of the run need not exist, and no pretrained weights are loaded: they
    may have to be fetched. `tuned` is the file that some of the settings are from.
    """
    hardware = probe_hardware(config.device)
    prepare_host(config)
    if not world.is_launched:
        write_models_of_sources(config)
    check_inputs(config)
    with explain_unreadable_data():
        dataset = config.data.build()
    if tuned is not None:
        tuned.check(config, hardware, dataset.digest, count_ranks(config, hardware, world, plan_only))
    data = prepare_data(config, dataset)
    if plan_only:
        config.model.check_pretrained_weights(ModelShape.from_spec(data.spec))
        config = replace(config, model=config.model.without_pretrained_weights())
    facts = collect_data_facts(config, data)
    if world.is_main:
        notes = check_evaluation_images(data, config.eval.run_test, config.data.on_error == "skip")
        facts = replace(facts, notes=(*facts.notes, *notes))
    plan = make_plan(
        config,
        hardware,
        world,
        facts,
        collect_model_facts(config, facts),
        read_resident_bytes(),
        plan_only,
        read_earlier_batches(config),
    )
    if plan.ranks > 1 and has_objects() and not plan_only and not world.is_launched:
        raise ConfigError(
            f"{plan.ranks} ranks are new processes, which do not have the objects that this call gives",
            "start the script with torchrun, or write the objects to a file: model=custom model.file=FILE, "
            "data=custom data.file=FILE",
        )
    plan = replace(plan, threads=choose_threads(config, plan, hardware, world, is_resuming(config)))
    if not plan_only:
        use_threads(plan.threads)
    # Methods report errors here, before a folder is created.
    collectives = LateCollectives(plan.degrees.shard)
    device = get_torch_device(config.device, hardware, world)
    hooks = build_hooks(config, make_build_context(config, plan, data, device, world, collectives))
    hooks = add_widths(hooks, read_init_widths(config))
    check_scheduled_values(config, plan, data, hooks)
    check_pipeline_stages(config, plan, data, hooks)
    check_reshaping(config, data, hooks)
    check_unfreezing(config, hooks)
    check_clients(config, plan, data, hooks, device)
    plan = add_method_memory(plan, hooks)
    if config.init_from is not None:
        plan = replace(plan, notes=(*plan.notes, *check_init_weights(config, data, hooks)))
    if config.quant.formats and world.is_main:
        check_quantization(config, data)
    return Session(config, hardware, world, data, plan, hooks, collectives)


def read_init_widths(config: RunConfig) -> Widths:
    """Return the widths of the pruned network that the run begins with, or those of a whole one."""
    if config.init_from is None:
        return Widths()
    path = Path(str(config.init_from)).expanduser()
    return replace(read_card_widths(path if path.is_dir() else path.parent), cuts=0)


def drop_init_weights_if_resuming(config: RunConfig) -> RunConfig:
    """Return `config`, without files of initial weights if the run resumes: they may be gone."""
    return drop_init_weights(config) if is_resuming(config) else config


def is_resuming(config: RunConfig) -> bool:
    """Return True if the run starts from a saved checkpoint."""
    has_checkpoint = config.run_dir is not None and list_checkpoints(Path(config.run_dir).expanduser() / "checkpoints")
    return config.resume not in ("auto", "never") or (config.resume == "auto" and bool(has_checkpoint))


def drop_init_weights(config: RunConfig) -> RunConfig:
    """Return `config` without files of initial weights; a checkpoint replaces them."""
    return replace(config, init_from=None, model=config.model.without_pretrained_weights())


def prepare_host(config: RunConfig) -> None:
    """Make training faster with settings of this process that do not change results."""
    if config.train.cpu_threads is not None:
        use_threads(config.train.cpu_threads)
    keep_freed_memory()
