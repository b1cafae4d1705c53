"""The plan of a run: facts, decisions, the memory estimate, and its display."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.planning.curve_text import format_curve
from dnntrain.protocols import MetricInfo, ModelSpec, PrecisionPolicy, TargetKind, WidthMultiple
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.units import format_bytes, format_count, pluralize

#: Ratio of the most to the fewest examples of a class from which classes are called unbalanced.
UNBALANCED_RATIO = 3


@dataclass(frozen=True)
class DataFacts:
    """Sizes of the data set: the examples of each split, and their form.

    resident       whether training keeps all images in memory
    can_cache      whether reading processes can keep the examples that they decoded
    cached         whether they do
    is_read_again  whether every image is read each time it is used, also in an evaluation
    class_counts   training examples of each class; empty for other targets
    """

    name: str
    train: int
    val: int
    test: int
    spec: ModelSpec
    resident: bool
    notes: tuple[str, ...] = ()
    is_read_again: bool = False
    can_cache: bool = False
    cached: bool = False
    class_counts: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the entry `data` of plan.json.

        It leaves out the names of targets, of which there may be thousands.
        """
        spec = self.spec
        shapes = {"input_shape": spec.inputs.shape, "output_shape": spec.output.shape}
        return {
            "name": self.name,
            "train": self.train,
            "val": self.val,
            "test": self.test,
            **shapes,
            "resident": self.resident,
            "cached": self.cached,
        }

    @property
    def class_counts_text(self) -> str:
        """Return `100 to 143 training examples in a class`, with the names of the extreme classes if they differ."""
        counts, names = self.class_counts, self.spec.targets.names
        least, most = min(counts), max(counts)
        if least == most:
            return f"{pluralize(least, 'training example')} in each class"
        if most < UNBALANCED_RATIO * least:
            return f"{least} to {most} training examples in a class"
        return f"{least} ({names[counts.index(least)]}) to {most} ({names[counts.index(most)]}) training examples in a class"

    @property
    def size_bytes(self) -> int:
        """Bytes of the inputs in memory: all splits if the data is resident, else 0."""
        return (self.train + self.val + self.test) * self.example_bytes if self.resident else 0

    @property
    def example_bytes(self) -> int:
        """Bytes of a decoded example, with its mask if it has one."""
        inputs, has_mask = self.spec.inputs, self.spec.targets.kind is TargetKind.MASK
        return inputs.bytes_per_value * math.prod(inputs.shape) + has_mask * math.prod(inputs.shape[1:])

    @property
    def cached_bytes(self) -> int:
        """Bytes of the training and validation examples that the ranks of a machine keep; 0 if not cached."""
        return (self.train + self.val) * self.example_bytes if self.cached else 0

    @property
    def pipeline_text(self) -> str:
        """Return `resident`, `streaming`, or `cached` with the memory that it takes."""
        if self.cached:
            return f"cached: {format_bytes(self.cached_bytes)} of decoded examples are kept in memory"
        return "resident" if self.resident else "streaming"


@dataclass(frozen=True)
class ModelFacts:
    """The cost of the model; FLOPs and activations are for one example.

    flops_per_example             FLOPs of a forward pass
    activation_bytes_per_example  bytes saved for the backward pass
    largest_activation_bytes      bytes of the largest activation
    convolutional                 whether the model has convolutions
    overflows_in_channels_last    whether a CPU kernel may write out of bounds in this format
    batch_norms                   number of batch norm layers
    batch_norm_values             smallest number of values per channel of one example that such a layer
                                  sees; 0 without such layers
    operators                     matrix products and convolutions of one forward pass
    blocks                        blocks that activation checkpointing can recompute
    divided                       (layer, number that parallel.tp must divide) for each layer of the
                                  tensor-parallel plan; empty without a plan
    shares_sequence               whether parallel.sequence can divide the positions of its texts
    section_flops                 FLOPs of each section between which a pipeline can split the model;
                                  empty if it cannot be split
    frozen                        parameters that train.freeze keeps, at least until they are unfrozen
    largest_kept_bytes            bytes of the largest tensor that is saved for the backward pass if a part
                                  is frozen in the whole run; else None: largest_activation_bytes
    train_flops_factor            FLOPs of a training step / FLOPs of its forward pass
    """

    name: str
    parameters: int
    flops_per_example: float
    activation_bytes_per_example: float
    largest_activation_bytes: float
    convolutional: bool
    batch_norms: int = 0
    batch_norm_values: int = 0
    operators: int = 1
    blocks: int = 0
    overflows_in_channels_last: bool = False
    divided: tuple[tuple[str, int], ...] = ()
    shares_sequence: bool = False
    section_flops: tuple[float, ...] = ()
    frozen: int = 0
    largest_kept_bytes: float | None = None
    train_flops_factor: float = 3.0

    @property
    def trained(self) -> int:
        """The number of parameters that are trained from the first step."""
        return self.parameters - self.frozen


@dataclass(frozen=True)
class Memory:
    """The estimated peak memory of one rank, in bytes.

    `activations` belong to a training step, `evaluation` to a forward pass of `eval.batch_size`
    examples. `averages`, `teacher_weights` and `teacher_activations` belong to the methods; see
    `add_method_memory`.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    evaluation: int
    data: int
    teacher_weights: int = 0
    teacher_activations: int = 0

    @property
    def teacher(self) -> int:
        return self.teacher_weights + self.teacher_activations

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Plan:
    """Every decision about a run, made before anything is allocated.

    has_collective_forward  whether a forward pass is the work of several ranks, so that all ranks
                            must call the model equally often
    batch_size              data ranks × accumulation × micro_batch_size if that divides; else the
                            last micro-batches are smaller. With a scheduled batch size, the value of
                            train.batch_size
    accumulation, micro_batch_size
                            number and size of the micro-batches; with a scheduled batch size, of the
                            largest batch
    steps_per_epoch         steps of an epoch; with a scheduled batch size, of the first epoch
    timetable               batch size of each epoch
    schedule                scheduled values at evenly spaced steps from the first to the last: "lr",
                            "momentum" if the schedule sets it, and the factors of other values
                            ("weight_decay ×")
    metrics                 how each metric of the task is read; the metric `eval.metric` comes first
    threads                 CPU threads of each rank; a resumed run uses the same number
    profile_steps           steps that are traced (train.profile); 0: none
    width_multiple          multiple of channels that the hardware computes well (prune.round_to=auto)
    unfreeze_step           step before which a part of the model is frozen (train.unfreeze_at), if any
    """

    name: str
    layout: str
    has_collective_forward: bool
    ranks: int
    degrees: ParallelDims
    stage_bounds: tuple[int, ...]
    device: str
    data: DataFacts
    model: ModelFacts
    augmentations: tuple[str, ...]
    batch_size: int
    micro_batch_size: int
    accumulation: int
    steps_per_epoch: int
    timetable: EpochSchedule
    total_steps: int
    duration: str
    base_learning_rate: float
    base_learning_rate_equation: str
    precision: PrecisionPolicy
    channels_last: bool
    compile: bool
    memory: Memory
    schedule: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...]
    metrics: tuple[MetricInfo, ...]
    threads: int = 1
    unfreeze_step: int | None = None
    profile_steps: int = 0
    width_multiple: WidthMultiple = field(default_factory=WidthMultiple)

    @property
    def _freeze_text(self) -> str:
        counts = f"{format_count(self.model.trained)} parameters trained, {format_count(self.model.frozen)} frozen"
        return (
            counts if self.unfreeze_step is None else f"{counts} until step {self.unfreeze_step}; then all are trained"
        )

    @property
    def _batch_text(self) -> str:
        sizes = self.timetable.sizes
        return str(sizes[-1]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}; {sizes[-1]}"

    @property
    def _steps_text(self) -> str:
        sizes = self.timetable.sizes
        steps = [self.timetable.count_steps_per_epoch(size) for size in (sizes[-1], sizes[0])]
        return str(steps[0]) if len(sizes) == 1 else f"{steps[0]} to {steps[1]}"

    @property
    def _teacher_text(self) -> str:
        weights, activations = map(format_bytes, (self.memory.teacher_weights, self.memory.teacher_activations))
        total = format_bytes(self.memory.teacher)
        return f"holds {total} of that on each rank: {weights} of weights, {activations} to compute"

    def as_json(self) -> dict[str, Any]:
        """Return the content of plan.json."""
        return {
            **asdict(self),
            "data": self.data.as_json(),
            "precision": {"name": self.precision.name, "reason": self.precision.reason},
            "memory_bytes": self.memory.total,
            "flops_per_step": self.model.train_flops_factor * self.model.flops_per_example * self.batch_size,
        }

    def format_rows(self) -> list[tuple[str, str]]:
        """Return the rows (label, text) of the plan as it is displayed."""
        total = pluralize(self.total_steps, "step") if self.total_steps else "as many steps as fit"
        accumulation_text = "in the pipeline" if self.degrees.pp > 1 else "accumulated"
        data_ranks = pluralize(self.degrees.data_ranks, "data rank")
        equation = f"{data_ranks} × {self.accumulation} {accumulation_text} × {self.micro_batch_size}"
        rows = [
            ("run", self.name),
            ("data", f"{self.data.name}: {self.data.train} train, {self.data.val} val, {self.data.test} test"),
            (
                "",
                f"{self.data.spec.inputs.describe()}, {self.data.spec.targets.describe()}, {self.data.pipeline_text}",
            ),
            *([("", self.data.class_counts_text)] if self.data.class_counts else []),
            (
                "model",
                f"{self.model.name}: {format_count(self.model.parameters)} parameters, "
                f"{format_count(self.model.flops_per_example)}FLOPs forward",
            ),
            *([("freeze", self._freeze_text)] if self.model.frozen else []),
            *([("augment", ", ".join(self.augmentations))] if self.augmentations else []),
            ("layout", f"{self.layout} on {self.device}" + (f": {self.degrees}" if self.ranks > 1 else "")),
            ("batch", f"{self._batch_text} = {equation}"),
            ("length", f"{self.duration}: {total}, {self._steps_text} per epoch"),
            ("base lr", self.base_learning_rate_equation),
            *((name, format_curve(values, self.total_steps)) for name, values in self.schedule.items()),
            ("precision", f"{self.precision.name} ({self.precision.reason})"),
            (
                "format",
                f"{'channels last' if self.channels_last else 'channels first'}, "
                f"{'compiled' if self.compile else 'not compiled'}",
            ),
            ("threads", pluralize(self.threads, "thread")),
            (
                "memory",
                f"about {format_bytes(self.memory.total)} at the peak: "
                + ", ".join(
                    f"{name.replace('_', ' ')} {format_bytes(size)}"
                    for name, size in asdict(self.memory).items()
                    if size
                ),
            ),
        ]
        if self.memory.teacher:
            rows.append(("teacher", self._teacher_text))
        return rows + [("note", note) for note in self.notes]
