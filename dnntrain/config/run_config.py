"""Define the configuration of a run as frozen values: sections, and one value for each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from dnntrain.config.fields import (
    Annotated,
    Device,
    Duration,
    Literal,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveDuration,
    PositiveInt,
    Range,
    RunDirectoryName,
    RunDuration,
    RunName,
    Seed,
    Text,
)
from dnntrain.config.groups import LISTS, SINGLE

if TYPE_CHECKING:
    # For the type checker only: importing this module must not import torch.
    from dnntrain.protocols import (
        AdaptChoice,
        AugmentChoice,
        AverageChoice,
        Choice,
        DataChoice,
        DistillChoice,
        FederatedChoice,
        LaunchChoice,
        ModelChoice,
        MonitorChoice,
        NormChoice,
        OptimChoice,
        ParallelChoice,
        PrecisionChoice,
        PruneChoice,
        QuantChoice,
        RegChoice,
        SchedChoice,
        Task,
        TrackChoice,
    )


@dataclass(frozen=True)
class TrainSection:
    """Length and step size of the training."""

    duration: RunDuration = Duration(60, "ep")  # length of the run: 10ep, 5000step or 90s
    batch_size: PositiveInt = 32  # examples per optimizer step, over all ranks and micro-batches
    micro_batch_size: PositiveInt | None = None  # examples per forward pass of one rank; null: the rank's whole share
    drop_last: bool = False  # true: leave out the examples of each epoch that do not fill a batch
    max_examples: PositiveInt | None = None  # number of training examples used, chosen by seed; null: all
    compile: Literal["off", "on", "auto"] = "auto"  # torch.compile; auto: if it is expected to pay within the run
    activation_checkpointing: Literal["none", "selective", "full"] = (
        "none"  # recompute activations in the backward pass to save memory
    )
    channels_last: Literal["off", "on", "auto"] = (
        "auto"  # channels-last memory format; auto: if the device's convolutions are faster with it
    )
    cpu_threads: PositiveInt | None = None  # intra-op CPU threads; null: as many as an operator's work is worth
    freeze: tuple[
        Annotated[str, Text(r"!?[^\s!]+", "a pattern of parameter names, as head.*, or its exception !head.*")], ...
    ] = ()  # parameters and statistics that keep their values: patterns and exceptions, as ["*","!head.*"]; the last match wins
    unfreeze_at: PositiveDuration | None = None  # time from which all is trained: 2ep, 500step or 10%; null: never
    profile: PositiveDuration | None = (
        None  # steps to trace, as 20step: each rank writes a Chrome trace to traces/ of the run; null: none
    )


@dataclass(frozen=True)
class EvalSection:
    """Time and method of the evaluation on the validation split."""

    every: PositiveDuration = Duration(1, "ep")  # interval between evaluations: 1ep, 500step or 30s
    batch_size: PositiveInt = 512  # examples per forward pass of one rank
    max_examples: PositiveInt | None = None  # number of examples of each split used; null: all
    metric: str = "${task.metric}"  # metric of the task that selects the best checkpoint
    run_test: bool = True  # true: evaluate the test split once, at the end
    weights: Literal["best", "last"] = (
        "best"  # weights that are tested and exported: best (of the best evaluation) or last (of the last step)
    )


@dataclass(frozen=True)
class CheckpointSection:
    """Time and number of checkpoints."""

    every: PositiveDuration = Duration(
        1, "ep"
    )  # interval between checkpoints: 1ep, 500step or 30s; the last step is always saved
    keep_last: PositiveInt = 2  # number of newest checkpoints kept, in addition to the best one
    on_error: Literal["raise", "warn"] = "raise"  # if a save fails: raise ends the run, warn continues with a warning
    background: bool = False  # true: write checkpoints while training continues, from a copy in memory


@dataclass(frozen=True)
class LogSection:
    """Output during training."""

    every: PositiveDuration = Duration(
        20, "step"
    )  # interval between rows of training metrics; a row's loss is the mean over the interval
    report: bool = True  # true: write curves.png and report.html at the end
    worst_examples: NonNegativeInt = 16  # number of most confidently misclassified test examples in the report


@dataclass(frozen=True)
class ClusterSection:
    """The machines that `dnntrain plan` plans for; training does not read them."""

    world_size: PositiveInt | None = (
        None  # plan only: number of ranks of a machine that is not present; null: the ranks present
    )
    ranks_per_node: PositiveInt | None = None  # plan only: ranks on each node of cluster.world_size
    device_tflops: Positive | None = None  # plan only: peak of a device in the run's precision, 10^12 operations/s
    utilization: Annotated[float, Range(above=0, at_most=1)] = (
        0.4  # plan only: fraction of that peak that a step reaches
    )
    link_gbps: Positive | None = None  # plan only: bandwidth of a rank within a node, in each direction, 10^9 bit/s
    node_link_gbps: Positive | None = None  # plan only: a rank's share of the bandwidth between nodes, 10^9 bit/s
    latency_us: NonNegative = 10.0  # plan only: latency of one message between two ranks, microseconds


@dataclass(frozen=True)
class RootSection:
    """The keys at the root that belong to no section."""

    name: RunName = "run"  # runs are saved in runs/NAME/ID
    seed: Seed = 0  # seed of every random choice
    folds: Annotated[int, Range(at_least=2)] | None = (
        None  # cross-validation: the number of runs, each tested on another part of the training split; null: one run
    )
    fold: NonNegativeInt | None = None  # the part that this run of a cross-validation is tested on; null: all in turn
    device: Device = "auto"  # auto, cpu, cuda, cuda:1 or mps
    run_dir: RunDirectoryName | None = None  # folder of the run; null: runs/NAME/ID
    resume: str = "auto"  # auto: resume the run in run_dir; never; or the path of a checkpoint
    init_from: str | None = (
        None  # initial weights: run directory, .safetensors, or .pt (read with weights_only); null: newly initialized
    )
    init_replace_head: bool = False  # true: if the number of classes differs, the head keeps its initialization
    init_prefix: str | None = (
        None  # part of the file of init_from: backbone. or encoder.:features. for a part of the model; null: all
    )


@dataclass(frozen=True, kw_only=True)
class LightConfig(RootSection):
    """The part of a configuration that is built before torch is imported, to find mistakes early.

    `resolved` holds the values of the whole configuration as plain containers, as written to
    config.yaml. It also holds `choices`: the name chosen in each group, which can be a preset
    (`model: resnet56`; `model` itself is then a `resnet_cifar`). `choices` determines the module
    that builds a group, and names the run; it is not part of the digest.
    """

    task: Task
    data: DataChoice
    sched: SchedChoice
    precision: PrecisionChoice
    parallel: ParallelChoice
    launch: LaunchChoice
    federated: FederatedChoice
    train: TrainSection = field(default_factory=TrainSection)
    eval: EvalSection = field(default_factory=EvalSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    log: LogSection = field(default_factory=LogSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    resolved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_debugging(self) -> bool:
        """Whether `debug=` lays a short run over the settings."""
        return bool(self.resolved["choices"]["debug"])


@dataclass(frozen=True, kw_only=True)
class RunConfig(LightConfig):
    """Everything that a run depends on. `resolved` holds the same values as plain containers."""

    model: ModelChoice
    norm: NormChoice
    optim: OptimChoice
    adapt: AdaptChoice
    quant: QuantChoice
    distill: DistillChoice
    prune: PruneChoice
    augment: Mapping[str, AugmentChoice] = field(default_factory=dict)
    reg: Mapping[str, RegChoice] = field(default_factory=dict)
    average: Mapping[str, AverageChoice] = field(default_factory=dict)
    monitor: Mapping[str, MonitorChoice] = field(default_factory=dict)
    track: Mapping[str, TrackChoice] = field(default_factory=dict)

    def name_choices(self, *groups: str) -> dict[str, Choice]:
        """Return the choices of `groups`, or of all groups, by their setting.

        A setting is written as the user types it: `norm=sync`, `reg.dropout`. The order is the
        order of `groups`.
        """
        values, choices = vars(self), self.resolved["choices"]
        named: dict[str, Choice] = {}
        for group in groups or (*SINGLE, *LISTS):
            if group in LISTS:
                named |= {f"{group}.{name}": choice for name, choice in values[group].items()}
            else:
                named[f"{group}={choices[group]}"] = values[group]
        return named


SECTIONS: dict[str, type] = {
    "train": TrainSection,
    "eval": EvalSection,
    "checkpoint": CheckpointSection,
    "log": LogSection,
    "cluster": ClusterSection,
}

#: The groups whose modules import no torch.
LIGHT_GROUPS = ("task", "data", "sched", "precision", "parallel", "launch", "federated")

#: Root keys with plain values; RootSection defines their types.
ROOT_KEYS: tuple[str, ...] = tuple(field.name for field in fields(RootSection))
