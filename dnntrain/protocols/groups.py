"""The base class of each group.

It declares every attribute of a choice that other code reads, with a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from dnntrain.protocols.choice import Choice, Claim, Method, Role
from dnntrain.protocols.context import Collectives, SingleProcess
from dnntrain.protocols.data_spec import DataFeature, InputKind
from dnntrain.protocols.hook_types import LayoutRequirement, ScheduledParam
from dnntrain.protocols.hooks import Hooks
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.utils.units import Duration

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from dnntrain.distributed.parallel_dims import ParallelDims
    from dnntrain.input.source import DataSet
    from dnntrain.nn.shape import ModelShape
    from dnntrain.protocols.context import BuildContext
    from dnntrain.protocols.task import ModelSpec, TaskFeature
    from dnntrain.utils.hardware import Hardware


class DataChoice(Choice):
    """A data set. `build` reads it; it raises DataError if that fails.

    val_fraction    share of the training split that is held out for validation
    pipeline        "resident", "streaming" or "auto"
    num_workers     reading processes of the streaming pipeline; None: one per free core
    on_error        reaction to an unreadable example: "raise" or "skip"
    mix_block_size  number of examples of a block, within which methods mix or relate examples
    sampler         order of an epoch: "shuffled", or "balanced" with equally many examples of each class
    varies_images   whether reading changes training images at random
    reading         how image files become inputs
    default_crop_padding, default_flip_probability  the values of augment=[crop,flip] for this data unless they are set
    input_kind      kind of the inputs
    features        properties that methods may need
    """

    input_kind: ClassVar[InputKind] = InputKind.IMAGES
    features: ClassVar[frozenset[DataFeature]] = frozenset({DataFeature.IMAGES})
    val_fraction: float = 0.1
    pipeline: str = "auto"
    num_workers: int | None = None
    on_error: str = "raise"
    mix_block_size: int = 8
    sampler: str = "shuffled"
    default_crop_padding: ClassVar[int] = 0
    default_flip_probability: ClassVar[float] = 0.0

    @property
    def varies_images(self) -> bool:
        return False

    @property
    def reading(self) -> ImageReading:
        return ImageReading()

    def without_download(self) -> Self:
        """Return the same data set, which is not downloaded if its files are missing."""
        return self

    def check_files(self) -> None:
        """Raise DataError if files are missing.

        This is called before torch is imported. It looks at names, and reads no image.
        """

    def build(self) -> DataSet:
        raise NotImplementedError

    def build_for_evaluation(self) -> DataSet:
        """Return the data set to evaluate a trained model on: it may lack classes of the model."""
        return self.build()


class ModelChoice(Choice):
    """A network. `build` makes it for data of a shape, or raises ConfigError.

    dropout           probability of its own dropout layers, if it has the option
    has_convolutions  whether it has convolutions, whatever the options; None if it depends on them
    has_blocks        whether it has blocks that activation checkpointing can recompute, in the same way
    model_package     the package with the network that the option `name` names, if it is one
    input_kinds       kinds of inputs that it supports

    The last four are literals, because they are read before torch is imported.
    """

    input_kinds: ClassVar[frozenset[InputKind]] = frozenset({InputKind.IMAGES})

    dropout: float | None = None
    has_convolutions: ClassVar[bool | None] = None
    has_blocks: ClassVar[bool | None] = None
    model_package: ClassVar[str] = ""

    def get_claims(self) -> Iterable[Claim]:
        """Return a claim to the dropout rate, if it is set."""
        if "dropout" in self.get_changed_options():
            return (Claim(Role.DROPOUT, f"model.dropout={self.dropout}", "leave model.dropout out"),)
        return ()

    def build(self, shape: ModelShape) -> nn.Module:
        raise NotImplementedError

    def check_pretrained_weights(self, shape: ModelShape) -> None:
        """Raise ConfigError if the pretrained weights do not exist, without fetching them."""

    def without_pretrained_weights(self) -> Self:
        """Return the same network without pretrained weights."""
        return self


@dataclass(frozen=True)
class NormFacts:
    """The decisions of the plan that a normalization layer depends on.

    ranks             number of data ranks
    batch_size        examples of an optimizer step
    micro_batch_size  examples of a forward pass
    accumulation      forward passes of a step
    batch_norms       batch norm layers of the model
    """

    ranks: int
    batch_size: int
    micro_batch_size: int
    accumulation: int
    batch_norms: int


class NormChoice(Method):
    """Normalization layers: kept as the model has them, or converted.

    batch_statistics  whether training normalizes with the statistics of a batch
    joins_ranks       whether those statistics include the examples of other ranks
    """

    batch_statistics: ClassVar[bool] = True
    joins_ranks: ClassVar[bool] = False

    @property
    def kept_block_size(self) -> int:
        """Consecutive examples with statistics of their own, which ranks do not divide if they can help it."""
        return 1

    @property
    def recomputed_batches(self) -> int:
        """Training batches of the first epoch from which an evaluation recomputes statistics."""
        return 0

    def count_smallest_group(self, rank_examples: Sequence[int]) -> int:
        """Return the examples of the smallest group with statistics of its own in a forward pass.

        `rank_examples` are the examples of each rank in the pass, of which at least one is above 0.
        """
        return min(count for count in rank_examples if count)

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """Convert the layers of `model` in place and return it.

        Raises ConfigError if there are none.
        """
        return model

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """Convert a newly built `model` to the form that this choice exports."""
        return model

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Return notes for the plan.

        Raises ConfigError if the layers cannot work with such batches.
        """
        return ()


class OptimChoice(Choice):
    """An optimizer; `build_hooks` returns further hooks.

    needs                       properties of the layout and of the task that it needs
    lr                          the base learning rate
    lr_fields                   the options that are learning rates
    lr_scaling                  the rule by which `adapt_lr` scales it; "none" if it does not
    state_floats_per_parameter  float32 numbers of state per parameter, for the plan's memory
    supports_loss_scale         whether its step may follow a float16 loss scale
    supports_unfreezing         whether parameters may get their first gradient after the first step
    """

    lr: float
    lr_scaling: str = "none"
    lr_fields: ClassVar[tuple[str, ...]] = ("lr",)
    state_floats_per_parameter: ClassVar[float] = 2.0
    supports_loss_scale: ClassVar[bool] = True
    supports_unfreezing: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[LayoutRequirement | TaskFeature | DataFeature]:
        return frozenset()

    def build(self, model: nn.Module, options: Mapping[str, Any] | None = None) -> tuple[Optimizer, ...]:
        """Return the optimizers over the parameters of `model`.

        `options` is the result of `get_parameter_options` for the full model.
        """
        raise NotImplementedError

    def build_hooks(self, context: BuildContext) -> Hooks:
        """Return further hooks.

        They reach the optimizers through `TrainerHandles.optimizers`.
        """
        return Hooks()

    def adapt_lr(self, batch_size: int) -> Self:
        """Return the choice with learning rates for `batch_size` examples a step."""
        return self

    def format_lr_equation(self, batch_size: int) -> str:
        """Return the equation of the base learning rate, for the plan."""
        return f"{self.lr:g}"

    def list_fixed_parameters(self, model: nn.Module) -> frozenset[str]:
        """Return the names of the parameters that the optimizer does not train; they need no gradient."""
        return frozenset()

    def get_parameter_options(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the options of each parameter by name.

        Raises ConfigError if a pattern matches no name.
        """
        return {}


class SchedChoice(Method):
    """A schedule of the learning rate, or of the values that `scheduled_params` names."""

    @property
    def scheduled_params(self) -> tuple[ScheduledParam, ...]:
        """The values that the schedule multiplies."""
        return (ScheduledParam.LEARNING_RATE,)

    def notes(self) -> tuple[str, ...]:
        """Return notes for the plan."""
        return ()


class AugmentChoice(Method):
    """An augmentation: a change of training examples.

    copies         copies of each example in a step
    varies_images  whether it changes training images at random
    """

    copies: int = 1
    varies_images: ClassVar[bool] = False

    def changes_images_of(self, data: DataChoice) -> bool:
        """Return whether it changes training images of `data` at random."""
        return self.varies_images or bool(self.example_relation)

    def describe(self, data: DataChoice) -> str:
        """Return the text of the plan for this method; empty for its name alone."""
        return ""


class RegChoice(Method):
    """A regularization method."""


class AverageChoice(Method):
    """An average of weights, evaluated and exported in their place."""


class QuantChoice(Method):
    """Quantization, in training or of the trained model.

    A choice that does not have an option keeps the default given here.

    formats                export formats that hold the quantized model, the preferred one first;
                           empty if only training is quantized
    backend                runtime of the export; "none": a run writes no export; "auto": the fastest
                           runtime; empty: the choice has one format
    bench_batch_sizes      batch sizes at which exports are timed with backend "auto"
    max_metric_drop        largest drop of the metric that an export may have
    min_quantized_fraction smallest fraction of multiply-adds of an export that must be quantized
    needs_calibration      whether activation ranges are measured on training examples after training
    calibration_batches, calibration_batch_size
                           number and size of the batches of those examples
    observer, percentile   rule that derives a range from the values of those examples
    is_quantization_aware  whether training learns the ranges
    is_weight_only         whether activations stay floating point
    compute_dtype          dtype that the source model must be able to compute in
    per_channel            whether weights have a scale for each output channel
    granularity            granularity of float8 scales: "row" or "tensor"
    """

    formats: ClassVar[tuple[str, ...]] = ()
    needs_calibration: ClassVar[bool] = False
    is_quantization_aware: ClassVar[bool] = False
    is_weight_only: ClassVar[bool] = False
    compute_dtype: ClassVar[str] = "float32"
    backend: str = ""
    bench_batch_sizes: tuple[int, ...] = (1, 64)
    max_metric_drop: float = 0.01
    min_quantized_fraction: float = 0.5
    calibration_batches: int = 0
    calibration_batch_size: int = 0
    observer: str = "minmax"
    percentile: float = 100.0
    per_channel: bool = True
    granularity: str = "row"

    @property
    def writes_export(self) -> bool:
        """Whether a run writes a quantized export at its end."""
        return bool(self.formats) and self.backend != "none"

    @property
    def timing_batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes at which exports are timed: ascending, each once."""
        return tuple(sorted(set(self.bench_batch_sizes)))

    def check_options(self) -> None:
        """Raise ConfigError if an option has no effect beside the others.

        Runs and exports call it.
        """

    def check_model(self, model: nn.Module) -> None:
        """Raise ConfigError if `model` has no layer that is quantized."""

    def notes(self, num_training: int) -> tuple[str, ...]:
        """Return notes for the plan of a run with `num_training` training examples."""
        return ()

    def note_missing_batches(self, num_training: int) -> tuple[str, ...]:
        """Return a note if there are fewer training examples than calibration reads."""
        return ()


class DistillChoice(Method):
    """Distillation from a teacher.

    sources      the teachers that the user names: runs, exports, or models of a library
    temperature  divisor of the logits, if the method has one
    """

    temperature: float | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        return ()

    def notes(self, model: ModelSpec) -> tuple[str, ...]:
        """Return notes for the plan of a student with this specification."""
        return ()


class PruneChoice(Method):
    """Pruning."""

    def notes(self, hardware: Hardware) -> tuple[str, ...]:
        """Return notes for the plan of a run on `hardware`."""
        return ()


class MonitorChoice(Method):
    """A monitor of the run, which may react to alarms.

    is_replayed  its only hook is a ReplayedCallback, so it may be added, changed or left out on resume
    """

    is_replayed: ClassVar[bool] = False


@dataclass(frozen=True)
class PrecisionPolicy:
    """The number formats of a run; weights stay float32.

    autocast_dtype   name of the torch dtype of matrix products and convolutions, or None
    uses_loss_scale  whether the loss is scaled so that float16 gradients do not vanish
    reason           reason for the formats, as the plan shows it
    """

    autocast_dtype: str | None
    uses_loss_scale: bool
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The torch dtype called `autocast_dtype`, or None."""
        import torch

        return None if self.autocast_dtype is None else getattr(torch, self.autocast_dtype)

    @property
    def name(self) -> str:
        """Short name of the number format of matrix products."""
        return {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.autocast_dtype]


class PrecisionChoice(Choice):
    """The number formats of training on given hardware."""

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        raise NotImplementedError


@dataclass(frozen=True)
class DeviceDemand:
    """Estimated memory of a run, in bytes.

    state   weights, gradients and optimizer state, which sharding divides
    other   activations of one rank, which sharding does not divide
    memory  memory of one device
    """

    state: float
    other: float
    memory: float


class ParallelChoice(Choice):
    """A layout over processes.

    processes        "many" if the layout uses several processes by default, else "one"
    chooses_degrees  whether `fit` chooses the degrees by the model
    uses_fsdp        whether it uses FSDP2 at any degrees
    schedule         order of the passes of a pipeline
    stages_per_rank  stages of a pipeline that one rank holds
    gradient_copies  tensors of the size of the gradients that a rank keeps from step to step
    """

    processes: ClassVar[str] = "many"
    chooses_degrees: ClassVar[bool] = False
    uses_fsdp: ClassVar[bool] = False
    schedule: str = "1f1b"
    stages_per_rank: int = 1

    @property
    def required_ranks(self) -> int | None:
        """The number of processes if the choice fixes it, else None."""
        return None

    @property
    def gradient_copies(self) -> int:
        return 0

    def build(self, ranks: int) -> ParallelDims:
        """Return the degrees for `ranks` processes. Raises ConfigError if none fit."""
        raise NotImplementedError

    def fit(self, ranks: int, demand: DeviceDemand) -> tuple[ParallelDims, str]:
        """Return the degrees for `ranks` processes, and the reason for them.

        By default these are the degrees of `build`, without a reason. A choice that picks degrees by
        memory overrides this method.
        """
        return self.build(ranks), ""


class LaunchChoice(Choice):
    """How processes are started.

    nproc         number of processes on each machine, if set
    nodes         number of machines
    max_restarts  largest number of restarts from the last checkpoint after a rank failed
    hang_timeout  silence after which a rank counts as hung
    scheduler     queueing system that runs the processes; empty for this machine
    """

    nproc: int | None = None
    nodes: int = 1
    max_restarts: int = 0
    hang_timeout: Duration = Duration(600, "s")
    scheduler: ClassVar[str] = ""

    @property
    def tasks_per_node(self) -> int:
        """Number of ranks on each machine."""
        return self.nproc or 1

    def build(self, accelerators: int) -> int:
        """Return the number of processes of a multi-process layout.

        `accelerators` is the number of accelerators of this machine.
        """
        raise NotImplementedError

    def make_batch_script(self, name: str, folder: Path, program: Sequence[str]) -> str:
        """Return the batch script of the scheduler for a run called `name` in `folder`."""
        raise NotImplementedError

    def make_sweep_command(self, arguments: Sequence[str]) -> str:
        """Return the command that queues a sweep as one job."""
        raise NotImplementedError


class Tracker(Protocol):
    """An experiment tracker of one run. The main rank alone calls it, between steps."""

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        """Begin or resume the run in `run_dir`; `config` is the resolved configuration."""

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Log a row of metrics, as metrics.jsonl has it."""

    def close(self, result: Mapping[str, Any]) -> None:
        """End the run with its result, as result.json has it."""


class TrackChoice(Choice):
    """An experiment tracker."""

    @property
    def max_wait_s(self) -> float:
        """Seconds that the start and the end of a run wait for the tracker."""
        return 20.0

    def build(self) -> Tracker:
        raise NotImplementedError
