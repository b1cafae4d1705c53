"""The base class of each group.

It declares every attribute of a choice that other code reads, with a default.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Self

from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.protocols.choice import Choice, Claim, Method, Role
from dnntrain.protocols.data_spec import DataFeature, InputKind, OutputKind, TargetKind
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting

if TYPE_CHECKING:
    from torch import nn

    from dnntrain.input.source import DataSet
    from dnntrain.nn.shape import ModelShape
    from dnntrain.protocols.hardware_groups import WidthMultiple
    from dnntrain.protocols.task import ModelSpec
    from dnntrain.utils.hardware import Hardware


class DataChoice(Choice):
    """A data set. `build` reads it; it raises DataError if that fails.

    val_fraction    share of the training split that is held out for validation
    pipeline        "resident", "cached", "streaming" or "auto"
    num_workers     processes that read files; None: one per free core
    on_error        reaction to an unreadable example: "raise" or "skip"
    mix_block_size  number of examples of a block, within which methods mix or relate examples
    sampler         order of an epoch: "shuffled", or "balanced" with equally many examples of each class
    measures_training  whether the form of the inputs, such as means or tokens, depends on the training examples
    varies_images   whether reading changes training images at random
    reading         how image or sound files become inputs
    default_crop_padding, default_flip_probability  the values of augment=[crop,flip] for this data unless they are set
    input_kind      kind of the inputs
    features        properties that methods may need
    place_options   options that name a folder or a file, as a literal: exports leave them out
    reading_options options that say how the examples are read, not which ones
    """

    place_options: ClassVar[tuple[str, ...]] = ()
    reading_options: ClassVar[frozenset[str]] = frozenset({"download", "num_workers", "on_error", "pipeline"})
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
    def measures_training(self) -> bool:
        return False

    @property
    def varies_images(self) -> bool:
        return False

    @property
    def reading(self) -> ImageReading | AudioReading:
        return ImageReading()

    def choose_targets(self, kind: TargetKind | None) -> Self:
        """Return the data set with targets of the kind that the task needs, if it has several kinds."""
        return self

    def build_masks(self) -> DataSet | None:
        """Return the same examples with exact masks of their objects as targets; None if they have none."""
        return None

    def list_speed_settings(self, facts: SpeedFacts) -> Iterable[SpeedSetting]:
        """Return other numbers of reading processes: they never change a bit."""
        if facts.is_resident:
            return ()
        counts = dict.fromkeys((1, 2, facts.cores, 2 * facts.cores))
        values = tuple(str(count) for count in counts if count != facts.workers)
        return (SpeedSetting("data.num_workers", SpeedGrade.BITWISE, values),)

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
    output_kinds      forms of outputs that it supports

    The last five are literals, because they are read before torch is imported.
    """

    input_kinds: ClassVar[frozenset[InputKind]] = frozenset({InputKind.IMAGES})
    output_kinds: ClassVar[frozenset[OutputKind]] = frozenset({OutputKind.VECTOR})

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

    @property
    def has_weights(self) -> bool:
        """Whether the network is built with trained weights."""
        return self.without_pretrained_weights() != self


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


class AdaptChoice(Method):
    """Adapters: the part of a network that is trained."""

    def convert(self, model: nn.Module) -> nn.Module:
        """Return `model` with the adapters, of which the rest needs no gradient."""
        return model

    def notes(self, has_weights: bool) -> tuple[str, ...]:
        """Return notes for the plan of a run that starts from trained weights, or from random ones."""
        return ()


class PruneChoice(Method):
    """Pruning."""

    def notes(self, hardware: Hardware, multiple: WidthMultiple) -> tuple[str, ...]:
        """Return notes for the plan of a run on `hardware`, which computes such widths well."""
        return ()


class MonitorChoice(Method):
    """A monitor of the run, which may react to alarms.

    is_replayed  its only hook is a ReplayedCallback, so it may be added, changed or left out on resume
    """

    is_replayed: ClassVar[bool] = False
