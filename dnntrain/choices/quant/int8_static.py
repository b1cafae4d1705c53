"""8-bit integers for weights and activations, with ranges of activations read from training images beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Annotated, Literal, PositiveInt, Probability, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Int8Static(PostTraining):
    """q = clamp(round(x / scale) + zero): uint8 activations with one scale a tensor, int8 weights with one a channel.

    The scale is (largest - smallest) / 255 of what the observer saw in `calibration_batches` training batches. Convolutions, linear
    layers and residual additions compute in integers. Source: Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", 2018; torchao's PT2E flow and ONNX Runtime's quantiser.
    """

    needs_calibration: ClassVar[bool] = True

    backend: Literal["auto", "inductor", "onnxruntime"] = (
        "auto"  # runtime of the integers; auto: the faster on this machine
    )
    bench_batch_sizes: tuple[PositiveInt, ...] = (1, 64)  # batch sizes that backend=auto measures
    calibration_batches: PositiveInt = 8  # batches of training images that determine the ranges
    calibration_batch_size: PositiveInt = 64  # images per calibration batch
    observer: Literal["minmax", "histogram", "percentile"] = "minmax"  # rule from values to a range
    percentile: Annotated[float, Range(above=50, at_most=100)] = (
        99.99  # percentage of values kept, if observer=percentile
    )
    per_channel: bool = True  # true: one scale per output channel of the weights; false: one per tensor
    min_quantized_fraction: Probability = (
        0.5  # smallest fraction of multiply-adds in integers; with less, the export fails
    )

    def build(self, context: BuildContext) -> Hooks:
        self.check_options()
        self.check_backend()
        return Hooks()

    def check_options(self) -> None:
        super().check_options()
        if self.observer != "percentile" and "percentile" in self.get_changed_options():
            raise ConfigError(
                f"quant.percentile={self.percentile} has no effect with quant.observer={self.observer}",
                "use quant.observer=percentile, or leave percentile out",
            )

    def note_missing_batches(self, num_training: int) -> tuple[str, ...]:
        """A note where there are fewer `training` images than are to be read."""
        num_batches = num_training // self.calibration_batch_size
        if num_batches >= self.calibration_batches:
            return ()
        batches_text = f"{num_batches} batch{'es' if num_batches != 1 else ''}"
        return (
            f"quant.calibration_batches={self.calibration_batches}: {num_training} training images make {batches_text} "
            f"of {self.calibration_batch_size}",
        )

    def notes(self, num_training: int) -> tuple[str, ...]:
        return (*super().notes(num_training), *self.note_missing_batches(num_training))
