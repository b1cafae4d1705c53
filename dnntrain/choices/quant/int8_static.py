"""Quantize weights and activations to 8-bit integers, with calibrated ranges.

The ranges of activations are measured on training examples beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Annotated, Literal, PositiveInt, Probability, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Int8Static(PostTraining):
    """Quantize activations to uint8 and weights to int8.

    q = clamp(round(x / scale) + zero), with one scale per tensor for activations and one per
    channel for weights. The scale is (high - low) / 255 of the range that the observer derives from
    the values of `calibration_batches` training batches, on every backend: the smallest and largest
    value (`minmax`), the range that keeps `percentile` % of all values, half of the rest beyond each
    end that is not 0 (`percentile`), or the range with the least squared rounding error
    (`histogram`). Convolutions, linear layers and residual additions compute in integers; the
    outputs of the model stay in float. OpenVINO's model is quantized by NNCF, with its own estimate of
    these ranges; without attention, it makes them symmetric: zero is 0, or 128 if there are negative
    values. Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018; torchao's PT2E flow, ONNX Runtime's quantizer and NNCF.
    """

    formats: ClassVar[tuple[str, ...]] = ("onnx_int8", "pt2_int8", "openvino_int8")
    needs_calibration: ClassVar[bool] = True

    backend: Literal["auto", "inductor", "onnxruntime", "openvino"] = (
        "auto"  # runtime of the integers; auto: the fastest on this machine
    )
    bench_batch_sizes: tuple[PositiveInt, ...] = (1, 64)  # batch sizes that backend=auto measures
    calibration_batches: PositiveInt = 8  # batches of training images that determine the ranges
    calibration_batch_size: PositiveInt = 64  # images per calibration batch
    observer: Literal["minmax", "histogram", "percentile"] = (
        "minmax"  # rule from values to a range; histogram: least squared rounding error
    )
    percentile: Annotated[float, Range(above=50, at_most=100)] = (
        99.99  # percentage of all values kept in a range, if observer=percentile
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
        """Return a note if there are fewer training images than the calibration reads."""
        num_batches = num_training // self.calibration_batch_size
        if num_batches >= self.calibration_batches:
            return ()
        batches_text = f"{num_batches} batch{'es' if num_batches != 1 else ''}"
        return (
            f"quant.calibration_batches={self.calibration_batches}: {num_training} training examples make {batches_text} "
            f"of {self.calibration_batch_size}",
        )

    def notes(self, num_training: int) -> tuple[str, ...]:
        return (*super().notes(num_training), *self.note_missing_batches(num_training))
