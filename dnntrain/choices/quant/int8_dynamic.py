"""Quantize weights and activations to 8-bit integers, with ranges per batch.

The ranges of activations are computed for each batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Literal, PositiveInt, Probability
from dnntrain.protocols import BuildContext, Hooks


@dataclass(frozen=True)
class Int8Dynamic(PostTraining):
    """Quantize as `int8_static` does, but with scales from the current values.

    This needs no calibration, but costs some time. It pays for large linear layers. Inductor
    quantizes linear layers only, so convolutional networks go to ONNX Runtime.
    """

    backend: Literal["auto", "inductor", "onnxruntime"] = (
        "auto"  # runtime of the integers; auto: the faster on this machine
    )
    bench_batch_sizes: tuple[PositiveInt, ...] = (1, 64)  # batch sizes that backend=auto measures
    per_channel: bool = True  # true: one scale per output channel of the weights; false: one per tensor
    min_quantized_fraction: Probability = (
        0.5  # smallest fraction of multiply-adds in integers; with less, the export fails
    )

    def build(self, context: BuildContext) -> Hooks:
        self.check_options()
        self.check_backend()
        return Hooks()
