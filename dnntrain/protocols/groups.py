"""The base class of each group's choices: every attribute that others may ask for, with its default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from dnntrain.protocols.choice import Choice, Claim, Method, Role
from dnntrain.protocols.context import Collectives, SingleProcess
from dnntrain.protocols.hook_types import LayoutRequirement, ScheduledParam
from dnntrain.protocols.hooks import Hooks
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
    """A data set. `build` reads it, or raises DataError.

    val_fraction    share of the training split that is held out for validation
    pipeline        "resident", "streaming" or "auto"
    num_workers     reading processes of the streaming pipeline; None: one per free core
    on_error        what an unreadable example does: "raise" or "skip"
    mix_block_size  examples of a block within which methods relate examples
    varies_images   whether reading changes training images at random
    default_crop_padding, default_flip_probability  what augment=[crop,flip] do to this data if they are not told
    """

    val_fraction: float = 0.1
    pipeline: str = "auto"
    num_workers: int | None = None
    on_error: str = "raise"
    mix_block_size: int = 8
    default_crop_padding: ClassVar[int] = 0
    default_flip_probability: ClassVar[float] = 0.0

    @property
    def varies_images(self) -> bool:
        return False

    def build(self) -> DataSet:
        raise NotImplementedError


class ModelChoice(Choice):
    """A network. `build` makes it for data of a shape, or raises ConfigError.

    dropout  probability of its own dropout layers, if it has the option
    """

    dropout: float | None = None

    def get_claims(self) -> Iterable[Claim]:
        """The rate of dropout, if it is set."""
        if "dropout" in self.get_changed_options():
            return (Claim(Role.DROPOUT, f"model.dropout={self.dropout}", "leave model.dropout out"),)
        return ()

    def build(self, shape: ModelShape) -> nn.Module:
        raise NotImplementedError

    def without_pretrained_weights(self) -> Self:
        """The same network without fetching weights, for one whose weights come from elsewhere."""
        return self


@dataclass(frozen=True)
class NormFacts:
    """What the plan decided: ranks, examples of a step and of a forward pass, forward passes of a step; batch norm layers."""

    ranks: int
    batch_size: int
    micro_batch_size: int
    accumulation: int
    batch_norms: int


class NormChoice(Method):
    """Normalization layers: kept, or converted.

    batch_statistics  whether training normalizes with the statistics of a batch
    """

    batch_statistics: ClassVar[bool] = True

    def convert(self, model: nn.Module, collectives: Collectives = SingleProcess()) -> nn.Module:
        """`model` with its layers changed in place. Raises ConfigError if it has none."""
        return model

    def convert_for_export(self, model: nn.Module) -> nn.Module:
        """A newly built `model` in the form in which this choice exports it."""
        return model

    def notes(self, facts: NormFacts) -> tuple[str, ...]:
        """Notes of the plan. Raises ConfigError if the layers cannot work with such batches."""
        return ()


class OptimChoice(Choice):
    """An optimizer, with hooks of its own in `build_hooks`.

    needs                       what it needs of the layout and of the task
    lr                          the base learning rate
    lr_fields                   the options that are learning rates
    lr_scaling                  the rule by which `adapt_lr` scales it; "none" if it does not
    state_floats_per_parameter  float32 numbers of state per parameter, for the plan's memory
    supports_loss_scale         whether its step may follow a float16 loss scale
    """

    lr: float
    lr_scaling: str = "none"
    lr_fields: ClassVar[tuple[str, ...]] = ("lr",)
    state_floats_per_parameter: ClassVar[float] = 2.0
    supports_loss_scale: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[LayoutRequirement | TaskFeature]:
        return frozenset()

    def build(self, model: nn.Module, options: Mapping[str, Any] | None = None) -> tuple[Optimizer, ...]:
        """The optimizers over the parameters of `model`; `options` are those of `get_parameter_options` for the whole model."""
        raise NotImplementedError

    def build_hooks(self, context: BuildContext) -> Hooks:
        """The hooks that it fills besides. It reaches its optimizers through `TrainerHandles.optimizers`."""
        return Hooks()

    def adapt_lr(self, batch_size: int) -> Self:
        """The same choice with its learning rates for `batch_size` examples a step."""
        return self

    def format_lr_equation(self, batch_size: int) -> str:
        """How the base learning rate results, for the plan."""
        return f"{self.lr:g}"

    def get_parameter_options(self, model: nn.Module) -> Mapping[str, Any]:
        """The options of each parameter by name. Raises ConfigError if a pattern of names matches none."""
        return {}


class SchedChoice(Method):
    """A schedule of the learning rate, or of what `scheduled_params` names."""

    @property
    def scheduled_params(self) -> tuple[ScheduledParam, ...]:
        """The values that it multiplies."""
        return (ScheduledParam.LEARNING_RATE,)

    def notes(self) -> tuple[str, ...]:
        """Notes of the plan."""
        return ()


class AugmentChoice(Method):
    """A change of training examples.

    copies         copies of each example in a step
    varies_images  whether it changes training images at random
    """

    copies: int = 1
    varies_images: ClassVar[bool] = False

    def changes_images_of(self, data: DataChoice) -> bool:
        """Return whether it changes training images of `data` at random."""
        return self.varies_images or bool(self.example_relation)

    def describe(self, data: DataChoice) -> str:
        """Return the words of the plan: its name unless it says more."""
        return ""


class RegChoice(Method):
    """A regularization method."""


class AverageChoice(Method):
    """An average of weights, evaluated and exported in their place."""


class QuantChoice(Method):
    """Quantization, in training or of the trained model. Options that a choice does not have keep these values.

    formats                export formats that hold the quantized model, the preferred one first; empty if only training is quantized
    backend                what runs the export; "none": a run writes none; "auto": the fastest; empty: its one format
    bench_batch_sizes           batch sizes at which exports are timed with backend "auto"
    max_metric_drop               largest loss of accuracy of an export
    min_quantized_fraction              least share of multiply-adds of an export that must be quantized
    needs_calibration      whether ranges of activations are read from training examples after training
    calibration_batches, calibration_batch_size    of those examples
    observer, percentile   how a range follows from the values of those examples
    is_quantization_aware  whether training learns the ranges
    is_weight_only         whether activations stay floating point
    compute_dtype          the dtype in which the source must be able to compute
    per_channel            whether weights have a scale for each output channel
    granularity            of the scales of float8: "row" or "tensor"
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
        """Batch sizes at which exports are timed to find the fastest: ascending, each once."""
        return tuple(sorted(set(self.bench_batch_sizes)))

    def check_options(self) -> None:
        """Raises ConfigError if an option has no effect beside the others, in a run as in an export of one."""

    def check_model(self, model: nn.Module) -> None:
        """Raises ConfigError if `model` has no layer that is quantized."""

    def notes(self, num_training: int) -> tuple[str, ...]:
        """Notes of the plan of a run with so many training examples."""
        return ()

    def note_missing_batches(self, num_training: int) -> tuple[str, ...]:
        """A note if there are fewer training examples than are to be read."""
        return ()


class DistillChoice(Method):
    """Distillation from a teacher."""

    def notes(self, model: ModelSpec) -> tuple[str, ...]:
        """Notes of the plan for a student of this form."""
        return ()


class PruneChoice(Method):
    """Pruning."""


class MonitorChoice(Method):
    """A monitor of the run that may react."""


@dataclass(frozen=True)
class PrecisionPolicy:
    """The number formats of a run; weights stay float32.

    autocast_dtype   name of the torch dtype of matrix products and convolutions, or None
    uses_loss_scale  whether the loss is scaled so that float16 gradients do not vanish
    reason           why this was chosen
    """

    autocast_dtype: str | None
    uses_loss_scale: bool
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype of that name."""
        import torch

        return None if self.autocast_dtype is None else getattr(torch, self.autocast_dtype)

    @property
    def name(self) -> str:
        """Short name of the format of matrix products."""
        return {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.autocast_dtype]


class PrecisionChoice(Choice):
    """The number formats of training on given hardware."""

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        raise NotImplementedError


@dataclass(frozen=True)
class DeviceDemand:
    """Estimated bytes of a run on one of `ranks` devices: `state` is what shards divide, `other` stays on each; `memory` of the device."""

    state: float
    other: float
    memory: float


class ParallelChoice(Choice):
    """A layout over processes.

    processes        "many" if it means several processes where nothing else says so, else "one"
    uses_fsdp        whether it uses FSDP2 whatever its degrees are
    schedule         order of a pipeline's passes
    stages_per_rank  stages of a pipeline that one rank holds
    gradient_copies  tensors of the size of the gradients that a rank keeps from step to step
    """

    processes: ClassVar[str] = "many"
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
        """The degrees for `ranks` processes. Raises ConfigError if there are none."""
        raise NotImplementedError

    def fit(self, ranks: int, demand: DeviceDemand) -> tuple[ParallelDims, str]:
        """(degrees, reason if the choice looked at the demand): those of `build` unless the choice picks them by memory."""
        return self.build(ranks), ""


class LaunchChoice(Choice):
    """How processes are started.

    nproc         processes on each machine, if set
    nodes         machines
    max_restarts  restarts from the last checkpoint after a rank failed
    hang_timeout  silence after which a rank is hung
    scheduler     the queueing system that runs it; empty for this machine
    """

    nproc: int | None = None
    nodes: int = 1
    max_restarts: int = 0
    hang_timeout: Duration = Duration(600, "s")
    scheduler: ClassVar[str] = ""

    @property
    def tasks_per_node(self) -> int:
        """Ranks on each machine."""
        return self.nproc or 1

    def build(self, accelerators: int) -> int:
        """The number of processes of a layout of several, given the accelerators of this machine."""
        raise NotImplementedError

    def make_batch_script(self, name: str, folder: Path, program: Sequence[str]) -> str:
        """The text that the scheduler takes for a run called `name` in `folder`."""
        raise NotImplementedError

    def make_sweep_command(self, arguments: Sequence[str]) -> str:
        """The line that queues a sweep as one job."""
        raise NotImplementedError


class Tracker(Protocol):
    """Another receiver of a run's metrics, used on the main rank only, between steps."""

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        """Begins or resumes the run that is kept in `run_dir`; `config` is resolved."""

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Takes a row of metrics as it stands in metrics.jsonl."""

    def close(self, result: Mapping[str, Any]) -> None:
        """Ends with the result of the run as it stands in result.json."""


class TrackChoice(Choice):
    """An experiment tracker."""

    def build(self) -> Tracker:
        raise NotImplementedError
