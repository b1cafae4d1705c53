"""What a federated run changes in the plan: steps are rounds, and a batch belongs to one client on one rank."""

from __future__ import annotations

from collections.abc import Iterator

from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims
from dnntrain.planning.checks.parallelism import DDP_OPTIONS
from dnntrain.protocols import Refusal, ScheduledParam
from dnntrain.utils.epochs import EpochSchedule


def get_batch_dims(config: LightConfig, dims: ParallelDims) -> ParallelDims:
    """Return the degrees over which a batch is divided: one process if ranks share clients."""
    return ParallelDims() if config.federated.is_federated and dims.has_whole_model else dims


def make_run_timetable(config: LightConfig, timetable: EpochSchedule) -> EpochSchedule:
    """Return the timetable of the run's steps. A round of a federated run is a step and an epoch."""
    if not config.federated.is_federated:
        return timetable
    return EpochSchedule.constant(timetable.examples, timetable.examples)


def find_federated_refusals(config: LightConfig) -> Iterator[Refusal]:
    """Find settings that a federated run does not support."""
    if not config.federated.is_federated:
        return
    name = f"federated={config.resolved['choices']['federated']}"
    if ScheduledParam.BATCH_SIZE in config.sched.scheduled_params:
        yield Refusal(
            f"{name} does not support batch_size in sched.applies_to, because clients count their own steps",
            "leave batch_size out of sched.applies_to",
        )
    if config.train.unfreeze_at is not None:
        yield Refusal(
            f"{name} does not support train.unfreeze_at, because clients keep vectors of the weights that are trained",
            "train in two runs: train.freeze, then init_from=RUN",
        )
    layout = config.parallel
    changed = layout.get_changed_options() if isinstance(layout, ParallelConfig) else {}
    for option in DDP_OPTIONS:
        if option in changed:
            yield Refusal(
                f"parallel.{option} has no effect with {name}, whose ranks send weights and no gradients",
                f"leave parallel.{option} out",
            )
    yield from config.federated.find_option_refusals()
    if config.data.pipeline in ("streaming", "cached"):
        yield Refusal(
            f"{name} does not support data.pipeline={config.data.pipeline}, because each client would need reading processes of its own",
            "use data.pipeline=resident",
        )


def find_joined_norm_refusals(config: RunConfig) -> Iterator[Refusal]:
    """Find layers that measure the examples of all ranks together."""
    if config.federated.is_federated and config.norm.joins_ranks:
        choices = config.resolved["choices"]
        yield Refusal(
            f"federated={choices['federated']} does not support norm={choices['norm']}, because ranks train different "
            "clients",
            "use norm=per_rank or norm=group",
        )
